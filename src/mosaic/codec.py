"""Serialise frozen dataclasses of tensors and plain values without pickle.

Tensors are stored in the safetensors format, everything else as JSON in its metadata. Only classes registered with
:func:`wire` can be decoded, so foreign bytes cannot run code.
"""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

T = TypeVar("T")

_WIRE_TYPES: dict[str, type] = {}
_TENSOR, _TYPE = "$tensor", "$type"


def wire(cls: type[T]) -> type[T]:
    """Register a frozen dataclass for serialisation."""
    if not is_dataclass(cls):
        raise TypeError(f"wire() expects a dataclass, got {cls.__name__}: put @wire above @dataclass")
    _WIRE_TYPES[cls.__name__] = cls
    return cls


def encode(value: object) -> bytes:
    """Serialise a wire dataclass.

    Raises:
        TypeError: a field is not a tensor, a plain value or a container of these.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = _flatten(value, "", tensors)
    return safetensors.torch.save(_unshared(tensors), metadata={"message": json.dumps(skeleton)})


def decode(data: bytes, expected: type[T]) -> T:
    """Deserialise a wire dataclass, with tensors on the CPU.

    Raises:
        ValueError: the bytes are truncated or foreign, or hold another class than ``expected``.
    """
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        value = _rebuild(json.loads(header["__metadata__"]["message"]), safetensors.torch.load(data))
    except (SafetensorError, KeyError, TypeError, ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"expected an encoded {expected.__name__}, got bytes that do not decode ({error})") from error
    if not isinstance(value, expected):
        raise ValueError(f"expected an encoded {expected.__name__}, got a {type(value).__name__}")
    return value


def size_in_bytes(value: object) -> int:
    """Return the size of an encoded message without encoding it.

    It counts tensors, plain values and names, but not the offsets in the header, under 100 bytes per tensor.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = _flatten(value, "", tensors)
    return sum(tensor.nbytes for tensor in tensors.values()) + len(json.dumps(skeleton))


def _flatten(value: object, path: str, tensors: dict[str, Tensor]) -> Any:
    match value:
        case Tensor():
            name = f"{len(tensors)}{path}"  # the number distinguishes "a/b" from b inside a
            tensors[name] = value
            return {_TENSOR: name}
        case None | bool() | int() | float() | str():
            return value
        case Mapping():
            return {str(key): _flatten(item, f"{path}/{key}", tensors) for key, item in value.items()}
        case list() | tuple():
            return [_flatten(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]
        case _ if type(value).__name__ in _WIRE_TYPES and is_dataclass(value):
            body = {f.name: _flatten(getattr(value, f.name), f"{path}/{f.name}", tensors) for f in fields(value)}
            return {_TYPE: type(value).__name__, **body}
        case _:
            raise TypeError(f"a message holds tensors, numbers, strings and containers of them, got {type(value)}")


def _rebuild(skeleton: Any, tensors: Mapping[str, Tensor]) -> Any:
    match skeleton:
        case {"$tensor": str(path)}:
            return tensors[path]
        case {"$type": str(name), **body}:
            return _WIRE_TYPES[name](**{str(key): _rebuild(item, tensors) for key, item in body.items()})
        case dict():
            return {key: _rebuild(item, tensors) for key, item in skeleton.items()}
        case list():
            return tuple(_rebuild(item, tensors) for item in skeleton)
        case _:
            return skeleton


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors that safetensors refuses: views of a larger storage, and tensors that occur twice."""
    seen: set[int] = set()
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        storage = plain.untyped_storage()
        if storage.nbytes() != plain.nbytes or storage.data_ptr() in seen:
            plain = plain.clone(memory_format=torch.contiguous_format)
        seen.add(plain.untyped_storage().data_ptr())
        result[name] = plain
    return result
