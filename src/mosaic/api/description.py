"""Describe objects as plain values: a run made of them says what they were, and a resumed one that they differ."""

import hashlib
from collections.abc import Mapping
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_DEEPEST = 8


def describe(value: Any, depth: int = 0) -> Any:
    """Return what YAML can hold of a value.

    Classes, functions and ``functools.partial`` become a ``class_path``, with ``init_args`` where arguments are bound;
    other objects a ``class_path`` with their public attributes; arrays their shape and a checksum.

    >>> describe(partial(int, base=2))
    {'class_path': 'builtins.int', 'init_args': {'base': 2}}
    """
    match value:
        case np.generic():  # some of which are Python's float and text, too
            return value.item()
        case None | bool() | int() | float() | str():
            return value
        case Path():
            return str(value)
        case Enum():
            return value.name
        case Mapping():
            return {str(key): describe(each, depth + 1) for key, each in value.items()}
        case list() | tuple() | range():
            return [describe(each, depth + 1) for each in value]
        case set() | frozenset():
            return sorted(str(describe(each, depth + 1)) for each in value)
        case Tensor() | np.ndarray():
            return _array(torch.as_tensor(value))
        case partial():
            bound = {key: describe(each, depth + 1) for key, each in value.keywords.items()}
            positional = {"args": describe(value.args, depth + 1)} if value.args else {}
            return {"class_path": _path(value.func), "init_args": bound, **positional}
        case type():
            return {"class_path": _path(value)}
        case nn.Module():
            return {"class_path": _path(type(value)), "weights": describe(value.state_dict(), depth + 1)}
    if hasattr(value, "__qualname__"):  # a function
        return {"class_path": _path(value)}
    if depth >= _DEEPEST or not hasattr(value, "__dict__"):
        return {"class_path": _path(type(value))}
    known = {key: each for key, each in vars(value).items() if not key.startswith("_") and each is not value}
    attributes = {key: describe(each, depth + 1) for key, each in known.items()}
    return {"class_path": _path(type(value)), **({"attributes": attributes} if attributes else {})}


def _path(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _array(values: Tensor) -> str:
    content = values.detach().cpu().contiguous().flatten().view(torch.uint8) if values.numel() else values
    digest = hashlib.sha256(content.numpy().tobytes()).hexdigest()[:16]
    return f"{values.dtype} of shape {tuple(values.shape)}, sha256 {digest}"
