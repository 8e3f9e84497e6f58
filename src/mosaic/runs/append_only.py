"""Tables and event files, which grow from round to round; a snapshot counts their bytes."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from mosaic.disk import sync
from mosaic.errors import MosaicError
from mosaic.runs.directory import RunDirectory
from mosaic.runs.snapshots import way_on_without


def check_sizes(root: Path, sizes: Mapping[str, int], snapshot: Path) -> None:
    """Refuse files of a run's folder that are shorter than their ``sizes`` in a snapshot, and tables without text."""
    present = append_only_sizes(root)
    for name, size in sizes.items():
        if name.endswith(".csv"):
            _check_text(root / name, size, snapshot)
        if (found := present.get(name, 0)) < size:
            raise MosaicError(
                f"{root / name} holds {found} bytes where {snapshot} counts {size}: restore it from a copy, or "
                f"{way_on_without(snapshot)}"
            )


def _check_text(table: Path, size: int, snapshot: Path) -> None:
    try:
        if any(not line.strip() for line in table.read_bytes()[:size].decode().splitlines()):
            raise ValueError("a line is empty")
    except FileNotFoundError:
        return
    except (IsADirectoryError, ValueError) as error:
        raise MosaicError(
            f"{table} is damaged ({error}): restore it from a copy, or {way_on_without(snapshot)}"
        ) from error


def cut_back(root: Path, sizes: Mapping[str, int]) -> None:
    """Return files to their lengths at a snapshot; those that it does not name are removed."""
    for name, present in append_only_sizes(root).items():
        if name in sizes:
            os.truncate(root / name, min(present, sizes[name]))
        else:
            (root / name).unlink()


def append_only_sizes(root: Path) -> dict[str, int]:
    """Return the present length in bytes of tables and event files, by path relative to ``root``."""
    return {str(file.relative_to(root)): file.stat().st_size for file in _append_only(root)}


def sync_append_only(root: Path) -> None:
    """Bring tables and event files to disk, before a snapshot counts their bytes."""
    for file in _append_only(root):
        sync(file)


def copy_append_only(source: Path, target: Path, sizes: Mapping[str, int]) -> None:
    """Copy tables and event files of one run into another's folder, and nothing else that a snapshot may name."""
    for name in sizes.keys() & append_only_sizes(source).keys():
        shutil.copyfile(source / name, target / name)


def _append_only(root: Path) -> list[Path]:
    run = RunDirectory(root)
    files = [run.metrics, run.validation, *sorted(run.tensorboard.glob("events.*"))]
    return [file for file in files if file.exists()]
