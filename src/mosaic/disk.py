"""Files that are whole or not there, and one line about a disk that is full, read-only or broken."""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mosaic.errors import MosaicError

_TROUBLES = {
    getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EROFS", "ESTALE") if hasattr(errno, name)
}


class DiskError(MosaicError):
    """The disk does not take what is to be written: nobody's mistake, so the exit code is that of a failure."""

    exit_code = 1


@contextmanager
def naming_disk(folder: Path) -> Iterator[None]:
    """Say in one line which folder's disk does not take more.

    Args:
        folder: where everything inside the block is written.

    Raises:
        DiskError: something inside the block has met a full, read-only or broken disk.
    """
    said_by_threads = threading.excepthook  # TensorBoard writes in one, which prints a traceback of its own
    threading.excepthook = lambda said: None if _trouble(said.exc_value) else said_by_threads(said)
    try:
        yield
    except Exception as error:
        if isinstance(error, DiskError) or (trouble := _trouble(error)) is None:
            raise
        where = f" at {trouble.filename}" if trouble.filename else ""
        raise DiskError(
            f"the disk of {folder} fails{where} ({os.strerror(trouble.errno or 0)}): see to it, for example with df; "
            "--ckpt_path auto then goes on from the last snapshot, if there is one"
        ) from error
    finally:
        threading.excepthook = said_by_threads


def _trouble(error: BaseException | None) -> OSError | None:
    """Find what a disk has answered behind an exception."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _TROUBLES:
            return error
        error = error.__cause__ or error.__context__
    return None


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """Write a file aside, bring it to disk and rename it, so that nobody ever sees half of it."""
    aside = path.with_name(f".{path.name}.tmp")
    try:
        write_synced(aside, data)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_synced(path: Path, data: bytes | memoryview) -> None:
    """Write a file and bring it to disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Bring what a file holds, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
