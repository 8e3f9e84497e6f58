"""What the files and flags of a command line say, as plain values, before anything is made of it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from mosaic.errors import MosaicError
from mosaic.yaml_files import read_yaml

_SUFFIXES = (".yaml", ".yml")
_STACKED = ("", "c", "config", "overlay", "algorithms")
"""Options, beside positional arguments, that take whole configurations."""


def read_arguments(arguments: Sequence[str]) -> dict[str, Any]:
    """Return what the files and flags of a command line say, stacked.

    >>> read_arguments(["--algorithm.replay=0.5", "--data.batch_size", "8"])
    {'algorithm': {'replay': 0.5}, 'data': {'batch_size': 8}}
    """
    total: Any = {}
    before = ""
    for argument in arguments:
        is_option = re.match("--?[a-z]", argument)
        option, equals, text = argument.partition("=") if is_option else (before, "=", argument)
        before = "" if equals else option
        if equals:
            for values in _values_of(option.lstrip("-"), text):
                total = stacked(total, values)
    return dict(total)


def _values_of(option: str, text: str) -> Iterator[Mapping[str, Any]]:
    from jsonargparse import get_loader

    if option in _STACKED:
        for part in [text] if _is_file(text) else re.split(r"[,+]", text):
            if _is_file(part) and (option in ("c", "config") or part.endswith(_SUFFIXES)):
                content = read_yaml(Path(part))
                values: Mapping[str, Any] = {}
                with suppress(ValueError, yaml.YAMLError):
                    values = get_loader("yaml")(content) or {}
                if values.get("from_objects"):
                    raise MosaicError(
                        f"{part}: expected a configuration, got the description of Python objects, which cannot be "
                        "run: describe the run in YAML"
                    )
                yield values
        return
    value: Any = text
    with suppress(ValueError, yaml.YAMLError):  # jsonargparse will say more about it
        value = get_loader("yaml")(Path(text).read_text() if text.endswith(_SUFFIXES) and _is_file(text) else text)
    for part in reversed(option.split(".")):
        value = {part: value}
    yield value


def _is_file(text: str) -> bool:
    with suppress(OSError):  # the text may be longer than any name
        return Path(text).is_file()
    return False


def stacked(below: Any, above: Any, key: str = "") -> Any:
    """Stack values; a section of another class replaces the one below, except the algorithm's."""
    if isinstance(below, str) and isinstance(above, Mapping):
        below = {"class_path": below}
    if isinstance(below, Mapping) and isinstance(above, str):
        above = {"class_path": above}
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    if key != "algorithm" and above.get("class_path", below.get("class_path")) != below.get("class_path"):
        return above
    return {**below, **{each: stacked(below.get(each), value, each) for each, value in above.items()}}
