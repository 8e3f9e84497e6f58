"""Objects in one file, a line of JSON each, which several processes may write."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from mosaic.disk import write_whole
from mosaic.errors import MosaicError


class JsonLines:
    """A file of objects, in the order of the fields that tell them apart: ``("algorithm", "seed")``."""

    def __init__(self, file: Path, key: Sequence[str]) -> None:
        self.file, self._key = file, tuple(key)

    def read(self) -> list[dict[str, Any]]:
        """Return all objects; none where there is no file."""
        if not self.file.is_file():
            return []
        lines = self.file.read_text(errors="replace").splitlines()
        return [self._parsed(number, line) for number, line in enumerate(lines, start=1)]

    def put(self, entry: Mapping[str, Any]) -> None:
        """Add an object, in place of one with the same key; the file is whole at every moment."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.file.with_name(f".{self.file.name}.lock")):
            objects = {self._key_of(each): each for each in (*self.read(), entry)}
            lines = (f"{json.dumps(objects[key])}\n" for key in sorted(objects))
            write_whole(self.file, "".join(lines).encode())

    def _parsed(self, number: int, line: str) -> dict[str, Any]:
        try:
            entry = json.loads(line)
            self._key_of(entry)
        except (ValueError, TypeError, KeyError) as error:
            expected = f"an object with {', '.join(self._key)}"
            raise MosaicError(
                f"{self.file}, line {number}: expected {expected}: remove the line, and its run is done again"
            ) from error
        return dict(entry)

    def _key_of(self, entry: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(entry[field] for field in self._key)
