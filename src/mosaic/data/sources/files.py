"""Find files, check that they are whole, and say so in one line where they are not."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from mosaic.errors import MosaicError, first_line

T = TypeVar("T")


def expand(path: str) -> Path:
    """Fill in ``~`` and environment variables."""
    return Path(os.path.expandvars(path)).expanduser()


def find_file(path: str, key: str, md5: str | None = None) -> Path:
    """Return a file that exists and, where ``md5`` is given, holds what it should.

    Args:
        path: may start with ``~`` and name environment variables.
        key: argument of the source that names the file, for the error.
        md5: 32 hexadecimal digits, compared before anything is read from the file.

    Raises:
        MosaicError: the file does not exist, or its md5 differs.
    """
    file = expand(path)
    if not file.is_file():
        raise missing("file", file, key)
    if md5 is not None:
        check_md5(file, md5, key)
    return file


def find_files(pattern: str, key: str, md5: str | None = None) -> list[Path]:
    """Return the one file of this name, or all files that a pattern with ``*`` matches, in order of their names.

    Raises:
        MosaicError: there is none; its md5 differs; or an md5 is given for several files.
    """
    if "*" not in pattern:
        return [find_file(pattern, key, md5)]
    files = sorted(expand(pattern).parent.glob(expand(pattern).name))
    if not files:
        raise missing("file", expand(pattern), key)
    if md5 is not None:
        raise MosaicError(
            f"data.source.init_args: expected no md5 for {len(files)} files that match {pattern}, "
            "an md5 is of one file: leave it out"
        )
    return files


def find_folder(path: str, key: str) -> Path:
    """Return a folder that exists.

    Raises:
        MosaicError: it does not.
    """
    folder = expand(path)
    if not folder.is_dir():
        raise missing("folder", folder, key)
    return folder


def missing(kind: str, path: Path, key: str) -> MosaicError:
    """Describe a file or folder that is not there."""
    unset = " (an environment variable in it is not set)" if "$" in str(path) else ""
    return MosaicError(
        f"{path.resolve()} does not exist{unset}: put the {kind} there, or say where it is with "
        f"--data.source.init_args.{key}"
    )


def check_md5(file: Path, md5: str, key: str) -> None:
    """Compare a file's md5.

    Raises:
        MosaicError: it differs.
    """
    with file.open("rb") as opened:
        got = hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if got != md5.lower():
        raise MosaicError(
            f"{origin_of(file, key)}: expected md5 {md5}, got {got}: fetch the file again, or correct the md5"
        )


def origin_of(path: Path, key: str) -> str:
    """Name a file together with the key of the configuration that points to it, as errors begin."""
    return f"{path} (data.source.init_args.{key})"


def readable(read: Callable[[], T], origin: str) -> T:
    """Return what ``read`` returns.

    Raises:
        MosaicError: reading fails, for whatever reason: zipfile, numpy, pyarrow and Pillow each have their own.
    """
    try:
        return read()
    except MosaicError:
        raise
    except Exception as error:
        raise unreadable(error, origin) from error


def unreadable(error: Exception, origin: str) -> MosaicError:
    """Describe a file that cannot be read."""
    return MosaicError(f"{origin} cannot be read ({first_line(error)}): fetch the file again")


def file_identity(files: Iterable[Path]) -> Iterator[object]:
    """Say of each file where it is, how large, and when it was written: what a cache is compared by."""
    for file in files:
        status = file.stat()
        yield str(file.resolve()), status.st_size, status.st_mtime_ns
