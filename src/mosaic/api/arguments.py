"""Turn arguments of the Python interface into arguments of the command line."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml

from mosaic.errors import MosaicError

Config = str | Path | Mapping[str, Any]
"""A configuration: the path of a YAML file, or its content as plain values."""
_NOT_SETTINGS = ("c", "config", "h", "help", "print_config")


@contextmanager
def config_files(config: Config | Sequence[Config]) -> Iterator[list[Path]]:
    """Yield the files of one or several configurations, later ones on top; plain values lie in a file meanwhile.

    Raises:
        MosaicError: there are none, or one is something else.
    """
    given = [config] if isinstance(config, str | Path | Mapping) else config
    if isinstance(given, bytes) or not isinstance(given, Sequence) or not given:
        raise MosaicError(
            f"config: expected the path of a YAML file, plain values, or a list of these, got {_short(config)}"
        )
    with TemporaryDirectory(prefix="mosaic-config-") as folder:
        yield [_file(each, Path(folder) / f"{number}.yaml") for number, each in enumerate(given)]


def fit_arguments(
    files: Sequence[Path], overrides: Mapping[str, Any] | None, ckpt_path: str | Path | None
) -> list[str]:
    """Return the arguments of ``mosaic`` for a run: files, then flags in the order of the overrides.

    >>> fit_arguments([Path("a.yaml")], {"data.partition.alpha": 0.5, "model.compile": True}, None)
    ['fit', '--config', 'a.yaml', '--data.partition.alpha=0.5', '--model.compile=true']
    """
    if not isinstance(overrides, Mapping | None):
        raise MosaicError(f"overrides: expected values by key, as in {{'seed_everything': 1}}, got {_short(overrides)}")
    given = [argument for file in files for argument in ("--config", str(file))]
    given += [_flag(key, value) for key, value in (overrides or {}).items()]
    return ["fit", *given, *([] if ckpt_path is None else [f"--ckpt_path={ckpt_path}"])]


def _file(config: object, place: Path) -> Path:
    if isinstance(config, str | Path):
        return Path(config)
    if not isinstance(config, Mapping):
        raise MosaicError(f"config: expected the path of a YAML file, or plain values, got {_short(config)}")
    place.write_text(yaml.safe_dump(_plain(config, "config"), sort_keys=False))
    return place


def _flag(key: object, value: Any) -> str:
    if not isinstance(key, str) or key.partition(".")[0] in _NOT_SETTINGS or not key.replace(".", "_").isidentifier():
        raise MosaicError(f"overrides: expected keys of a configuration, as data.partition.alpha, got {_short(key)}")
    plain = _plain(value, key)
    return f"--{key}={plain if isinstance(plain, str) else _in_one_line(plain)}"


def _in_one_line(plain: Any) -> str:
    """Return a plain value as YAML in one line.

    >>> _in_one_line({"epsilon": float("inf"), "seeds": [0, None]})
    '{epsilon: .inf, seeds: [0, null]}'
    """
    text: str = yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=sys.maxsize, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def _plain(value: Any, key: str) -> Any:
    """Return a value as YAML holds it: paths as text, classes as their class path.

    Raises:
        MosaicError: YAML cannot hold it.
    """
    match value:
        case np.generic():  # some of which are Python's float and text, too
            return _plain(value.item(), key)
        case Enum():  # likewise; YAML names a member
            return value.name
        case None | bool() | int() | float() | str():
            return value
        case np.ndarray():
            return _plain(value.tolist(), key)
        case Path():
            return str(value)
        case type():
            return f"{value.__module__}.{value.__qualname__}"
        case Mapping():
            return {str(name): _plain(each, f"{key}.{name}") for name, each in value.items()}
        case list() | tuple() | range():
            return [_plain(each, key) for each in value]
    raise MosaicError(
        f"{key}: expected what YAML can hold (numbers, text, lists, values by key, classes), got {_short(value)}: "
        "mosaic.Federation takes objects"
    )


def _short(value: object) -> str:
    text = " ".join(repr(value).split())
    return f"{type(value).__name__} {text if len(text) <= 80 else f'{text[:77]}...'}"
