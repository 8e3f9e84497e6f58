"""Refuse null where an argument does not take it, and lists in place of settings; jsonargparse lets both pass."""

import typing
from collections.abc import Mapping
from dataclasses import is_dataclass
from pkgutil import resolve_name
from types import NoneType
from typing import Any

from mosaic.cli.complaints import SETTINGS
from mosaic.cli.suggestions import setting_types
from mosaic.errors import MosaicError


def require_values(spec: Any, expected: Any, key: str) -> None:
    """Refuse null for arguments whose type does not take it, and lists where settings have names, at every depth.

    Args:
        spec: parsed configuration, as plain values.
        expected: class or type that it is for.
        key: of the configuration, where it stands.
    """
    if isinstance(spec, list):
        for item in spec:
            require_values(item, Any, key)
    if not isinstance(spec, Mapping):
        return
    if "class_path" in spec:
        expected, spec = resolve_name(str(spec["class_path"])), spec.get("init_args") or {}
    hints = setting_types(expected)
    for name, value in spec.items():
        hint = hints.get(name, Any)
        if value is None and not _takes_none(hint):
            told = getattr(hint, "__name__", str(hint))
            raise MosaicError(f"{key}.{name}: expected {told}, got null: leave it out to have the default")
        if isinstance(value, list) and is_dataclass(hint):
            raise MosaicError(f"{key}.{name}: {SETTINGS}, got {value}")
        require_values(value, hint, f"{key}.{name}")


def _takes_none(hint: Any) -> bool:
    return hint in (Any, None, object, NoneType) or any(_takes_none(each) for each in typing.get_args(hint))
