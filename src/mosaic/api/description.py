"""Describe Python objects as plain values, for a run's config.yaml and to compare them when the run resumes."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler
from torch import Tensor, nn

from mosaic.signatures import accepted_arguments, is_ours

_DEEPEST = 16
_VALUES = (
    *(bool, int, float, str, Path, Enum, np.generic, np.ndarray, Tensor, nn.Module),
    *(Mapping, list, tuple, range, set, frozenset, partial, type, FunctionType, MethodType),
)
_ADDRESS = " at 0x"
"""What Python says of an object that says nothing of itself."""
_COUNTING = (Callback, Logger, Profiler)
"""Classes whose objects keep what they have seen among their attributes: only what they were made of describes them."""


def describe(value: Any, above: tuple[int, ...] = ()) -> Any:
    """Return what YAML can hold of a value.

    Classes, functions and ``functools.partial`` become a ``class_path``, with ``init_args`` where arguments are bound,
    and with a function's defaults and what it has closed over; other objects a ``class_path`` with their public
    attributes and, of classes outside this package, with constructor arguments that they keep in private; arrays their
    shape and a checksum; what has no public attribute its ``repr``, if that tells more than where it lies. Lightning's
    callbacks, loggers and profilers are told by constructor arguments alone.

    Args:
        value: of any kind.
        above: identities of the objects that hold it, which are not described once more.

    >>> describe(partial(int, base=2))
    {'class_path': 'builtins.int', 'init_args': {'base': 2}}
    """
    inside = (*above, id(value))
    match value:
        case np.generic():  # some of which are Python's float and text, too
            return describe(value.item(), inside)
        case Enum():  # likewise
            return value.name
        case None | bool() | int() | float() | str():
            return value
        case Path() | torch.dtype() | torch.device():
            return str(value)
        case _ if id(value) in above or len(above) >= _DEEPEST:
            return {"class_path": _path(value if hasattr(value, "__qualname__") else type(value))}
        case Mapping():
            return {str(key): describe(each, inside) for key, each in value.items()}
        case list() | tuple() | range():
            return [describe(each, inside) for each in value]
        case set() | frozenset():
            return sorted(str(describe(each, inside)) for each in value)
        case np.ndarray() if value.dtype.hasobject:
            return describe(value.tolist(), inside)
        case np.ndarray():
            return _checksum(value.dtype, value.shape, value.tobytes())
        case Tensor() if value.is_nested:
            return describe(value.unbind(), inside)
        case Tensor():
            return _checksum(value.dtype, value.shape, _content(value.detach()))
        case partial():
            bound = {key: describe(each, inside) for key, each in value.keywords.items()}
            positional = {"args": describe(value.args, inside)} if value.args else {}
            return {**describe(value.func, inside), "init_args": bound, **positional}
        case type():
            return {"class_path": _path(value)}
        case ModuleType() | logging.Logger():
            return {"class_path": value.__name__ if isinstance(value, ModuleType) else value.name}
        case nn.Module():
            return {"class_path": _path(type(value)), "weights": describe(value.state_dict(), inside)}
        case FunctionType():
            return {"class_path": _path(value), **_described(_bound(value), inside)}
        case MethodType():
            return {"class_path": _path(value), "of": describe(value.__self__, inside)}
    if hasattr(value, "__qualname__"):  # a function of another language
        return {"class_path": _path(value)}
    attributes = {key: each for key, each in _attributes(value).items() if each is not value}
    if not attributes and _ADDRESS not in (said := repr(value)):  # as of bytes, fractions and patterns
        return {"class_path": _path(type(value)), "repr": said}
    return {"class_path": _path(type(value)), **_described({"attributes": attributes}, inside)}


def _described(groups: Mapping[str, Mapping[str, Any]], above: tuple[int, ...]) -> dict[str, Any]:
    """Describe groups of values by name; empty ones are left out."""
    known = {name: group for name, group in groups.items() if group}
    return {name: {key: describe(each, above) for key, each in group.items()} for name, group in known.items()}


def _bound(function: FunctionType) -> dict[str, dict[str, Any]]:
    """Return the defaults of a function, and the values of the variables around it that it uses."""
    code, given = function.__code__, function.__defaults__ or ()
    names = code.co_varnames[code.co_argcount - len(given) : code.co_argcount]
    around = zip(code.co_freevars, function.__closure__ or (), strict=True)
    closed_over = {name: cell.cell_contents for name, cell in around if cell != CellType()}
    return {
        "defaults": {**dict(zip(names, given, strict=True)), **(function.__kwdefaults__ or {})},
        "closure": {name: each if _is_value(each) else type(each) for name, each in closed_over.items()},
    }


def _is_value(value: object) -> bool:
    """Whether a variable holds a value, a class or a function, and nothing that may hold half of the process."""
    return value is None or isinstance(value, _VALUES) or is_dataclass(value) or is_ours(value)


def _attributes(value: object) -> dict[str, Any]:
    """Return the attributes that describe an object."""
    try:
        state = object.__getstate__(value)
    except TypeError:  # as of generators, and of much that another language has made
        return {}
    parts = state if isinstance(state, tuple) else (state,)  # a second part holds slots
    kept = {name: each for part in parts if part for name, each in part.items()}
    public = {name: each for name, each in kept.items() if not name.startswith("_")}
    if is_ours(value):
        return public
    try:
        names, _ = accepted_arguments(type(value))
    except ValueError:  # another language says nothing of its arguments
        return public
    given = {name: kept[own] for name in sorted(names) for own in (name, f"_{name}") if own in kept}
    return given if isinstance(value, _COUNTING) else {**public, **given}


def _path(value: Any) -> str:
    return f"{getattr(value, '__module__', None) or type(value).__module__}.{value.__qualname__}"


def _checksum(dtype: object, shape: Sequence[int], content: bytes) -> str:
    return f"{dtype} of shape {tuple(shape)}, sha256 {hashlib.sha256(content).hexdigest()[:16]}"


def _content(values: Tensor) -> bytes:
    """Return the numbers of a tensor, of whatever layout; a tensor without memory has none."""
    if values.is_meta or not values.numel():
        return b""
    plain = values.dequantize() if values.is_quantized else values
    plain = plain.resolve_conj().resolve_neg() if plain.layout == torch.strided else plain.to_dense()
    return plain.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
