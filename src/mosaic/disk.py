"""Write files whole or not at all, hold locks, and report a full, read-only or broken disk in one line."""

import errno
import glob
import hashlib
import logging
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from mosaic.errors import MosaicError

log = logging.getLogger(__name__)

_TROUBLES = {
    getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EROFS", "ESTALE") if hasattr(errno, name)
}
_LONGEST_WRITE = 3600.0
"""Seconds after which a file that lies aside was left there by a killed process."""
_MISSING = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}


class DiskError(MosaicError):
    """A disk cannot be written to. It is not the user's mistake, so the exit code is that of a failure."""

    exit_code = 1


@contextmanager
def naming_disk(
    folder: Path, way_on: str = "--ckpt_path auto then goes on from the last snapshot, if there is one"
) -> Iterator[None]:
    """Turn the errors of a full, read-only or broken disk, and of a folder that is gone, into one line that names it.

    Raises:
        DiskError: something inside the block has met such a disk.
    """
    said_by_threads = threading.excepthook  # TensorBoard writes in one, which prints a traceback of its own

    def is_told(error: BaseException | None) -> bool:
        return _trouble(error) is not None or _is_gone(error, folder)

    threading.excepthook = lambda said: None if is_told(said.exc_value) else said_by_threads(said)
    try:
        yield
    except Exception as error:
        if isinstance(error, DiskError) or not is_told(error):
            raise
        trouble = _trouble(error)
        if trouble is None:
            raise DiskError(
                f"{folder} is gone, or a folder in it: somebody has moved or removed it: put it back; {way_on}"
            ) from error
        where = f" at {os.fsdecode(trouble.filename)}" if trouble.filename else ""
        raise DiskError(
            f"the disk of {folder} fails{where} ({os.strerror(trouble.errno or 0)}): see to it, for example with df; "
            f"{way_on}"
        ) from error
    finally:
        threading.excepthook = said_by_threads


def _trouble(error: BaseException | None) -> OSError | None:
    """Return the disk's error behind an exception, if there is one."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _TROUBLES:
            return error
        error = error.__cause__ or error.__context__
    return None


def _is_gone(error: BaseException | None, folder: Path) -> bool:
    """Whether a file in a folder cannot be found or made since the folder that should hold it is there no more."""
    if not isinstance(error, OSError) or error.errno not in _MISSING or not isinstance(error.filename, str | bytes):
        return False
    place = Path(os.fsdecode(error.filename)).absolute()
    return place.is_relative_to(folder.absolute()) and not place.parent.is_dir()


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """Write a file aside, sync and rename it, so that nobody ever sees half of it, however many write it at once."""
    aside = name_aside(path)
    try:
        write_synced(aside, data)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def name_aside(path: Path) -> Path:
    """Return a new name beside a file, to write it under before it is renamed; clear away what was left under such."""
    begin = path.name[:60]  # names have 255 bytes at most
    for left in path.parent.glob(f".{glob.escape(begin)}.*.tmp"):
        with suppress(OSError):  # somebody else clears away what a killed process has left, too
            if time.time() - left.stat().st_mtime > _LONGEST_WRITE:
                left.unlink()
    return path.with_name(f".{begin}.{uuid.uuid4().hex[:8]}.tmp")


def write_synced(path: Path, data: bytes | memoryview) -> None:
    """Write a file and sync it to disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_signed(path: Path, data: bytes) -> None:
    """Write a file whole, and its checksum before it."""
    write_whole(path, hashlib.sha256(data).digest() + data)


def read_signed(path: Path) -> bytes:
    """Return what :func:`write_signed` has written.

    Raises:
        MosaicError: the file cannot be read, or something has changed it.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MosaicError(f"{path} cannot be read ({os.strerror(error.errno or 0)}): restore it from a copy") from error
    size = hashlib.sha256().digest_size
    if hashlib.sha256(content[size:]).digest() != content[:size]:
        raise MosaicError(f"{path} is damaged (its checksum differs): restore it from a copy")
    return content[size:]


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
    try:
        return _acquired(file, blocking=False)
    except Timeout as error:
        raise MosaicError(taken) from error
    except PermissionError as error:
        raise MosaicError(f"{file} cannot be locked ({os.strerror(error.errno or 0)}): give it to this user") from error


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold a lock inside the block, and wait for it; without effect where the file system has no locks."""
    held = _acquired(file, blocking=True)
    try:
        yield
    finally:
        held.release()


def _acquired(file: Path, blocking: bool) -> FileLock:
    held = FileLock(file, fallback_to_soft=False)  # for which a file that exists is a lock that is held
    try:
        held.acquire(blocking=blocking)
    except (Timeout, PermissionError):
        raise
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
