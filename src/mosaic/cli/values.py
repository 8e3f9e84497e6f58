"""Make a configuration that config.yaml and other processes can hold; refuse learning rates without effect."""

import inspect
from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any

from mosaic.errors import LARGEST, MosaicError


def writable(values: Any) -> Any:
    """Leave out default arguments of classes that YAML cannot hold: they are the classes' own again when it is read."""
    if isinstance(values, list):
        return [writable(value) for value in values]
    if not isinstance(values, Mapping):
        return values
    kept = {key: writable(value) for key, value in values.items()}
    return {key: value for key, value in kept.items() if not str(value).startswith("Unable to serialize instance")}


def check_importable(value: Any, key: str = "") -> None:
    """Refuse classes of the script that calls, which the processes that an executor starts do not have."""
    parts = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        check_importable(part, f"{key}.{name}".removeprefix("."))
    if isinstance(value, str) and value.startswith("__main__."):
        raise MosaicError(
            f"{key}: expected a class that other processes can import, since the executor starts some, got {value}: "
            "put it into a file beside this script, and name that module"
        )


def check_rate(optimizer: Mapping[str, Any]) -> None:
    """Refuse a learning rate that would have no effect, and numbers that no weight can hold."""
    arguments, path = optimizer.get("init_args") or {}, str(optimizer["class_path"])
    for key, value in arguments.items():
        if isinstance(value, float) and not abs(value) < LARGEST:
            raise MosaicError(f"model.optimizer.init_args.{key}: expected a number below {LARGEST:g}, got {value}")
    given = arguments.get("lr")
    usual = inspect.signature(resolve_name(path)).parameters.get("lr")
    if usual is not None and given != usual.default:
        raise MosaicError(
            f"model.optimizer.init_args.lr: {given} would have no effect, since every round has a rate of its own: set "
            "federation.schedule.learning_rate and federation.schedule.fine_tune_learning_rate"
        )
