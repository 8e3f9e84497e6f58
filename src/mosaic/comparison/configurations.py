"""Configurations of ``mosaic fit`` as plain values: found, read and stacked without importing what they name."""

from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from mosaic.errors import MosaicError

AS_CONFIGURED = "config"
"""Name of the algorithm that the configuration itself holds."""


def find_presets(name: str) -> list[Path]:
    """Return the files of an algorithm: presets of this package by name, or files by path.

    Raises:
        MosaicError: there is none of this name, or it holds more than an ``algorithm`` section.
    """
    if name == AS_CONFIGURED:
        return []
    shipped = Path(str(files("mosaic") / "presets"))
    found = []
    for part in name.split("+"):
        path = Path(part) if part.endswith((".yaml", ".yml")) else shipped / f"{part}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(preset.stem for preset in shipped.glob("*.yaml")))
            raise MosaicError(
                f"--algorithms: there is no {part}: expected {AS_CONFIGURED}, the path of a YAML file, or one of "
                f"{known}"
            )
        others = sorted(set(read_yaml(path)) - {"algorithm"})
        if others:
            raise MosaicError(
                f"--algorithms: {path} changes {', '.join(others)} too, and then more than the algorithm would differ: "
                "move that into a file for --overlay, which all algorithms get"
            )
        found.append(path)
    return found


def algorithm_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``algorithm`` section, which may be a mere class path."""
    section = config.get("algorithm") or {}
    return {"class_path": section} if isinstance(section, str) else dict(section)


def merged(configs: Iterable[Path]) -> dict[str, Any]:
    """Stack configurations as ``fit`` does; a section of another class replaces the one before."""
    total: dict[str, Any] = {}
    for config in configs:
        total = _stacked(total, read_yaml(config))
    return total


def _stacked(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    total = dict(below)
    for key, value in above.items():
        before = total.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            other = "class_path" in value and value["class_path"] != before.get("class_path")
            total[key] = dict(value) if other else _stacked(before, value)
        else:
            total[key] = value
    return total


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a configuration.

    Raises:
        MosaicError: the file is missing or is no mapping.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise MosaicError(
            f"{path}: expected a configuration of mosaic fit, which could not be read: {error}"
        ) from error
    if not isinstance(content, dict):
        raise MosaicError(f"{path}: expected a configuration of mosaic fit, got {type(content).__name__}")
    return content
