"""Find, read and stack configurations of ``mosaic fit`` as plain values; no class in them is imported."""

from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jsonargparse import get_loader

from mosaic.errors import MosaicError
from mosaic.yaml_files import read_yaml

_SECTIONS = ("trainer", "model", "data", "federation", "clients")

AS_CONFIGURED = "config"
"""Name of the algorithm that the configuration itself holds."""


class Configuration(NamedTuple):
    """Path and text of a file of ``fit``, as it was when it was read: later changes of the file change no run."""

    path: Path
    text: str

    @property
    def values(self) -> dict[str, Any]:
        """Its values, with numbers and dates as ``fit`` reads them."""
        values: dict[str, Any] = get_loader("yaml")(self.text)
        return values


def read_configuration(path: Path) -> Configuration:
    """Read a file."""
    configuration = Configuration(path, read_yaml(path))
    try:
        values = configuration.values
    except (ValueError, yaml.YAMLError) as error:
        raise MosaicError(f"{path}: expected a configuration of mosaic fit, which cannot be read: {error}") from error
    sections = {section: values.get(section) for section in _SECTIONS}
    schedule = sections["federation"].get("schedule") if isinstance(sections["federation"], Mapping) else None
    for section, given in {**sections, "federation.schedule": schedule}.items():
        if not isinstance(given or {}, Mapping):
            raise MosaicError(
                f"{path}: {section}: expected settings by name, got {given!r}: write them out here, since a "
                "comparison combines files"
            )
    return configuration


def find_presets(name: str) -> list[Configuration]:
    """Return the files of an algorithm: presets of this package by name, or files by path, joined by ``+``."""
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
        preset = read_configuration(path)
        if others := sorted(set(preset.values) - {"algorithm"}):
            raise MosaicError(
                f"--algorithms: {path} changes {', '.join(others)} too, and then more than the algorithm would differ: "
                "move that into a file for --overlay, which all algorithms get"
            )
        found.append(preset)
    return found


def merged(configs: Iterable[Configuration]) -> dict[str, Any]:
    """Stack configurations; a section of another class replaces the one before with all its arguments."""
    total: dict[str, Any] = {}
    for config in configs:
        total = _stacked(total, config.values)
    return total


def _stacked(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    total = dict(below)
    for key, value in above.items():
        before = total.get(key)
        if (
            isinstance(before, str)
            and isinstance(value, Mapping)
            and "init_args" in value
            and "class_path" not in value
        ):
            before = {"class_path": before}  # the short form of a class keeps it
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            other = "class_path" in value and value["class_path"] != before.get("class_path")
            total[key] = dict(value) if other else _stacked(before, value)
        else:
            total[key] = value
    return total
