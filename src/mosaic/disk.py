"""Write files whole or not at all, hold locks, and report a full, read-only or broken disk in one line."""

import errno
import logging
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mosaic.errors import MosaicError, users_mistake

log = logging.getLogger(__name__)

_TROUBLES = {
    getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EROFS", "ESTALE") if hasattr(errno, name)
}
_MISSING = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}


class DiskError(MosaicError):
    """A disk cannot be written to. It is not the user's mistake, so the exit code is that of a failure."""

    exit_code = 1


@contextmanager
def naming_disk(folder: Path) -> Iterator[None]:
    """Turn the errors of a full, read-only or broken disk into one line that names the folder.

    Raises:
        DiskError: something inside the block has met such a disk.
    """
    said_by_threads = threading.excepthook  # TensorBoard writes in one, which prints a traceback of its own

    def trouble_of(error: BaseException | None) -> OSError | None:
        return _trouble(error) or _gone(error, folder)

    threading.excepthook = lambda said: None if trouble_of(said.exc_value) else said_by_threads(said)
    try:
        yield
    except Exception as error:
        if isinstance(error, DiskError) or (trouble := trouble_of(error)) is None:
            raise
        where = f" at {os.fsdecode(trouble.filename)}" if trouble.filename else ""
        raise DiskError(
            f"the disk of {folder} fails{where} ({os.strerror(trouble.errno or 0)}): see to it, for example with df; "
            "--ckpt_path auto then goes on from the last snapshot, if there is one"
        ) from error
    finally:
        threading.excepthook = said_by_threads


def _trouble(error: BaseException | None) -> OSError | None:
    """Return the disk's error behind an exception, if there is one."""
    return next((each for each in _disk_errors(error) if each.errno in _TROUBLES), None)


def _gone(error: BaseException | None, folder: Path) -> OSError | None:
    """Return the error of a file that cannot be found since somebody has removed or moved its folder."""
    for each in () if users_mistake(error) else _disk_errors(error):
        place = Path(os.fsdecode(each.filename)).absolute() if isinstance(each.filename, str | bytes | Path) else None
        if each.errno in _MISSING and place is not None and place.is_relative_to(folder.absolute()):
            return each
    return None


def _disk_errors(error: BaseException | None) -> Iterator[OSError]:
    while error is not None:
        if isinstance(error, OSError):
            yield error
        error = error.__cause__ or error.__context__


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """Write a file aside, sync and rename it, so that nobody ever sees half of it."""
    aside = path.with_name(f".{path.name}.tmp")
    try:
        write_synced(aside, data)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_synced(path: Path, data: bytes | memoryview) -> None:
    """Write a file and sync it to disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def make_writable(folder: Path, option: str) -> None:
    """Make a folder, unless it is there, and see whether files can be written in it, before any work is done for it.

    Args:
        folder: which.
        option: names it on the command line.

    Raises:
        MosaicError: it cannot be made, or written in.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise MosaicError(f"{option}: {folder} cannot be written to ({why}): choose another folder") from error


def lock(file: Path, taken: str) -> FileLock:
    """Hold a lock until it is released or this process ends; without effect where the file system has no locks.

    Raises:
        MosaicError: another process holds it; the message is ``taken``.
    """
    held = FileLock(file)
    try:
        held.acquire(blocking=False)
    except Timeout as error:
        raise MosaicError(taken) from error
    except (OSError, NotImplementedError):  # some network file systems have no locks
        log.debug("%s cannot be locked", file)
    return held


def sync(path: Path) -> None:
    """Sync a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
