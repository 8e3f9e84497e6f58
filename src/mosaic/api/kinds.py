"""Check that objects were made of arguments of the types that their classes ask for."""

import types
import typing
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from os import PathLike
from typing import Any, Literal

import numpy as np

from mosaic.errors import MosaicError, kind_of
from mosaic.signatures import is_ours

_NUMBERS: dict[Any, type] = {int: Integral, float: Real}
_ALIKE: dict[Any, Any] = {bool: (bool, np.bool_), str: (str, PathLike)}
_SEQUENCES = (list, tuple, Sequence)


def check_kinds(value: object, key: str) -> None:
    """Refuse an object of this package that was made of something of another kind, and likewise what it was made of.

    Paths may stand for text, sequences for each other, and numpy's values for Python's.

    Args:
        value: which; what is not of this package is left alone, and so are members of lists.
        key: of the configuration, for errors.

    Raises:
        MosaicError: an argument is of another kind than its class asks for.
    """
    if not is_ours(value):
        return
    for name, hint in typing.get_type_hints(type(value).__init__).items():
        if name == "return" or not hasattr(value, name):
            continue
        part = getattr(value, name)
        if not _fits(part, hint):
            raise MosaicError(f"{key}.{name}: expected {_told(hint)}, got {kind_of(part)}")
        check_kinds(part, f"{key}.{name}")


def _fits(value: object, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, each) for each in typing.get_args(hint))
    if origin is Literal:
        return value in typing.get_args(hint)
    if origin is Callable:
        return callable(value)
    if hint in _NUMBERS:
        return isinstance(value, _NUMBERS[hint]) and not isinstance(value, bool)
    kind = origin or hint
    if kind in _SEQUENCES:
        return isinstance(value, Sequence) and not isinstance(value, str)
    return isinstance(value, _ALIKE.get(kind, kind)) if isinstance(kind, type) else True


def _told(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    if typing.get_args(hint) and typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_told, typing.get_args(hint))))
    return str(getattr(hint, "__name__", hint)).replace("NoneType", "None")
