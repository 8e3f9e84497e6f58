"""Read and compare YAML files; refuse those at which a parser would hang or guess."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from yaml import MappingNode, Node, ScalarNode, SequenceNode

from mosaic.errors import MosaicError

_NOTHING = "tag:yaml.org,2002:null"
_SECTIONS = ("model", "data", "algorithm", "executor", "federation", "clients", "trainer")
"""Keys of a configuration that hold others; a privacy section may be empty, which is none."""
MOST_VALUES = 100_000
"""A configuration has hundreds; aliases can stand for more than any memory holds."""


def read_yaml(path: Path) -> str:
    """Return the text of a YAML file that holds one mapping.

    Raises:
        MosaicError: the file cannot be read, is not in UTF-8 or not YAML, holds something else, or a key twice; or it
            describes a run of Python objects, and cannot make them.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        root = yaml.compose(text, yaml.SafeLoader)
    except OSError as error:
        raise MosaicError(f"{path}: expected a configuration, which cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise MosaicError(
            f"{path}: expected a configuration in UTF-8, got other bytes at place {error.start}: save it as UTF-8"
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise MosaicError(f"{path}: expected a configuration in YAML, got {' '.join(str(error).split())}") from error
    if not isinstance(root, MappingNode):
        kind = "nothing" if root is None else "a list" if isinstance(root, SequenceNode) else "a single value"
        raise MosaicError(f"{path}: expected a configuration of sections, got {kind}")
    if any(key.value == "from_objects" for key, _ in root.value):
        raise MosaicError(
            f"{path}: expected a configuration, got the description of Python objects, which cannot be run: describe "
            "the run in YAML"
        )
    _Walk(path).visit(root, ())
    if all(value.tag == _NOTHING for _, value in root.value):
        raise MosaicError(f"{path}: expected a configuration of sections, got nothing below any: leave it out")
    return text


def differences(before: Any, now: Any, prefix: str = "") -> Iterator[str]:
    """Yield the keys by which two configurations differ, or those below which only one has anything.

    >>> list(differences({"a": 1, "b": {"c": 2}}, {"b": {"c": 3}}))
    ['a', 'b.c']
    """
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys((*before, *now)):
            yield from differences(before.get(key), now.get(key), f"{prefix}{key}.")
    elif before != now:
        yield prefix.removesuffix(".")


class _Walk:
    """Visits every value, as a parser would expand them."""

    def __init__(self, path: Path) -> None:
        self._path, self._seen = path, 0

    def visit(self, node: Node, above: tuple[Node, ...]) -> None:
        self._seen += 1
        line = node.start_mark.line + 1
        if node in above:
            raise MosaicError(f"{self._path}, line {line}: expected values, got an anchor that refers to itself")
        if self._seen > MOST_VALUES:
            raise MosaicError(f"{self._path}: expected at most {MOST_VALUES} values, aliases included, got more")
        if isinstance(node, SequenceNode):
            for item in node.value:
                self.visit(item, (*above, node))
        if isinstance(node, MappingNode):
            keys: set[str] = set()
            for key, value in node.value:
                name = key.value if isinstance(key, ScalarNode) else ""
                if value.tag == _NOTHING and (name == "init_args" or (name in _SECTIONS and not above)):
                    raise MosaicError(
                        f"{self._path}, line {key.start_mark.line + 1}: expected settings below {name}, got nothing: "
                        "remove the key, or indent what belongs to it"
                    )
                if name in keys and name != "<<":
                    raise MosaicError(
                        f"{self._path}, line {key.start_mark.line + 1}: expected every key once, got {name} a second "
                        "time: remove one"
                    )
                keys.add(name)
                self.visit(value, (*above, node))
