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
    module, _, name = spec["class_path"].rpartition(".")
    arguments = {key: instantiate(value) for key, value in dict(spec.get("init_args") or {}).items()}
    return getattr(importlib.import_module(module), name)(**arguments, **dict(spec.get("dict_kwargs") or {}))
