"""Serialise frozen dataclasses of tensors and plain values without pickle.

Tensors are stored in the safetensors format, everything else as JSON in its metadata. Only classes registered with
:func:`wire` can be decoded, with fields of the types that they declare, so foreign bytes cannot run code.
"""

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import safetensors.torch
import torch
from torch import Tensor

T = TypeVar("T")

_WIRE_TYPES: dict[str, type] = {}
_TENSOR, _TYPE = "$tensor", "$type"
_LARGEST_HEADER = 100_000_000
"""Bytes; what the safetensors format allows."""


def wire(cls: type[T]) -> type[T]:
    """Register a frozen dataclass for serialisation."""
    if not is_dataclass(cls):
        raise TypeError(f"wire() expects a dataclass, got {cls.__name__}: put @wire above @dataclass")
    _WIRE_TYPES[cls.__name__] = cls
    return cls


def encode(value: object) -> bytes:
    """Serialise a wire dataclass; :func:`decode` reads whatever this has made.

    Raises:
        TypeError: a field is not a dense tensor of a type that safetensors knows, a plain value or a container of
            these, or of another type than it declares.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = _flatten(value, "", tensors)
    return safetensors.torch.save(_unshared(tensors), metadata={"message": json.dumps(skeleton)})


def decode(data: bytes, expected: type[T], largest_header: int = _LARGEST_HEADER) -> T:
    """Deserialise a wire dataclass, with tensors on the CPU.

    Args:
        data: what :func:`encode` has made, or a stranger.
        expected: class of the value.
        largest_header: bytes that names and plain values may take, about 100 for a tensor.

    Raises:
        ValueError: the bytes are truncated or foreign, or hold another class, or a field of another type.
    """
    try:
        length = int.from_bytes(data[:8], "little")
        if length > largest_header:
            raise ValueError(f"its header has {length} bytes, and {largest_header} are allowed")
        header = json.loads(data[8 : 8 + length])
        value = _rebuild(json.loads(header["__metadata__"]["message"]), safetensors.torch.load(data))
    except Exception as error:  # a stranger's bytes may be anything, and no library lists all that it raises
        raise ValueError(f"expected an encoded {expected.__name__}, got bytes that do not decode ({error})") from error
    if not isinstance(value, expected):
        raise ValueError(f"expected an encoded {expected.__name__}, got a {type(value).__name__}")
    return value


def require_encodable(value: object) -> None:
    """Refuse what :func:`encode` would refuse, without copying a tensor.

    Raises:
        TypeError: see :func:`encode`.
    """
    _flatten(value, "", {})


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
            if value.layout is not torch.strided or value.is_meta or not _has_a_name(value.dtype):
                kind = f"{value.dtype} as {value.layout} tensor on {value.device}"
                raise TypeError(f"a message holds dense tensors of types that safetensors knows, got {kind}")
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
            values = {field.name: getattr(value, field.name) for field in fields(value)}
            _require_declared(type(value), values)
            body = {key: _flatten(item, f"{path}/{key}", tensors) for key, item in values.items()}
            return {_TYPE: type(value).__name__, **body}
        case _:
            raise TypeError(f"a message holds tensors, numbers, strings and containers of them, got {type(value)}")


def _rebuild(skeleton: Any, tensors: Mapping[str, Tensor]) -> Any:
    match skeleton:
        case {"$tensor": str(path)}:
            return tensors[path]
        case {"$type": str(name), **body}:
            values = {str(key): _rebuild(item, tensors) for key, item in body.items()}
            _require_declared(_WIRE_TYPES[name], values)
            return _WIRE_TYPES[name](**values)
        case dict():
            return {key: _rebuild(item, tensors) for key, item in skeleton.items()}
        case list():
            return tuple(_rebuild(item, tensors) for item in skeleton)
        case _:
            return skeleton


@cache
def _has_a_name(dtype: torch.dtype) -> bool:
    """Whether the safetensors format has a name for tensors of this type."""
    try:
        safetensors.torch.save({"": torch.empty(0, dtype=dtype)})
    except Exception:  # a KeyError or what PyTorch raises for quantised ones
        return False
    return True


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _require_declared(cls: type, values: Mapping[str, object]) -> None:
    """Refuse values of fields that have another type than the class declares."""
    for key, hint in _hints(cls).items():
        if got := _misfit(values[key], hint):
            raise TypeError(f"{cls.__name__}.{key}: expected {hint}, got {got}")


def _misfit(value: object, hint: Any) -> str:
    """Say what a field's value is if it has another type; nothing if it fits. Type variables take anything."""
    within = get_args(hint)
    match get_origin(hint):
        case origin if origin is dict and isinstance(value, Mapping):
            found = ((key, _misfit(item, within[1])) for key, item in value.items())
            return next((f"{got} under {key!r}" for key, got in found if got), "")
        case origin if origin is tuple and isinstance(value, list | tuple):
            return next(filter(None, (_misfit(item, within[0]) for item in value)), "")
        case origin if origin in (Union, UnionType):
            fits = any(not _misfit(value, each) for each in within)
        case origin if origin in (dict, tuple):
            fits = False
        case _ if hint is float:
            fits = isinstance(value, int | float) and not isinstance(value, bool)
        case _ if hint is int:
            fits = isinstance(value, int) and not isinstance(value, bool)
        case _:
            fits = not isinstance(hint, type) or isinstance(value, hint)
    return "" if fits else type(value).__name__


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
