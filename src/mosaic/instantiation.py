"""Build the objects that a parsed configuration names."""

import importlib
from collections.abc import Mapping
from typing import Any


def instantiate(spec: Any) -> Any:
    """Build the objects that a parsed configuration names by ``class_path``; leave everything else as it is.

    >>> instantiate({"class_path": "fractions.Fraction", "init_args": {"numerator": 1, "denominator": 2}})
    Fraction(1, 2)
    >>> instantiate(["cpu", 2])
    ['cpu', 2]
    """
    if isinstance(spec, list):
        return [instantiate(item) for item in spec]
    if not (isinstance(spec, Mapping) and "class_path" in spec):
        return spec
    arguments = {key: instantiate(value) for key, value in dict(spec.get("init_args") or {}).items()}
    return class_called(spec["class_path"])(**arguments, **dict(spec.get("dict_kwargs") or {}))


def class_called(path: str) -> Any:
    """Import the class, or whatever else a module has under a name, that a dotted path names."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)
