"""Records of many runs in one file, a line of JSON each, which several processes may write."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from mosaic.disk import write_whole
from mosaic.errors import MosaicError


class JsonLines:
    """A file of records, in the order of their keys.

    Args:
        file: path; there need be no such file yet.
        key: fields that tell one record from another, for example ``("algorithm", "seed")``.
    """

    def __init__(self, file: Path, key: Sequence[str]) -> None:
        self.file, self._key = file, tuple(key)

    def read(self) -> list[dict[str, Any]]:
        """Return all records; none where there is no file.

        Raises:
            MosaicError: a line holds something else.
        """
        if not self.file.is_file():
            return []
        return [self._parsed(number, line) for number, line in enumerate(self.file.read_text().splitlines(), start=1)]

    def put(self, record: Mapping[str, Any]) -> None:
        """Add a record, in the place of one with the same key; the file is whole at every moment."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.file.with_name(f".{self.file.name}.lock")):
            records = {self._key_of(each): each for each in (*self.read(), record)}
            lines = (f"{json.dumps(records[key])}\n" for key in sorted(records))
            write_whole(self.file, "".join(lines).encode())

    def _parsed(self, number: int, line: str) -> dict[str, Any]:
        try:
            record = json.loads(line)
            self._key_of(record)
        except (ValueError, TypeError, KeyError) as error:
            expected = f"an object with {', '.join(self._key)}"
            raise MosaicError(
                f"{self.file}, line {number}: expected {expected}: remove the line, and its run is done again"
            ) from error
        return dict(record)

    def _key_of(self, record: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(record[field] for field in self._key)
