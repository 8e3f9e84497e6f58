"""JSON files of a run's folder: where it ran, how images are split, and how it ended."""

import json
from pathlib import Path
from typing import Any

from mosaic.errors import MosaicError


def read_facts(file: Path) -> dict[str, Any]:
    """Return what a file holds, and nothing where there is no file.

    Raises:
        MosaicError: the file is damaged.
    """
    try:
        return dict(json.loads(file.read_text("utf-8"))) if file.is_file() else {}
    except (ValueError, TypeError) as error:
        raise MosaicError(f"{file} is damaged ({error}): restore it from a copy") from error


def is_whole(file: Path) -> bool:
    """Whether a file is there and can be read."""
    try:
        return bool(read_facts(file))
    except MosaicError:
        return False
