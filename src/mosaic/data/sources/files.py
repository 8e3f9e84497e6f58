"""Find the files of a source, check their md5, and report unreadable files in one line."""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from mosaic.errors import MosaicError, first_line

T = TypeVar("T")


def expand(path: str) -> Path:
    """Expand ``~`` and environment variables."""
    return Path(os.path.expandvars(path)).expanduser()


def find_file(path: str, key: str, md5: str | None = None) -> Path:
    """Return an existing file, and check its md5 before it is read.

    Args:
        path: path; may start with ``~`` and contain environment variables.
        key: argument of the source that names the file; errors cite it.
        md5: 32 hexadecimal digits.

    Raises:
        MosaicError: the file does not exist, or its md5 differs.
    """
    file = expand(path)
    if not file.is_file():
        raise missing("file", file, key)
    if md5 is not None:
        with file.open("rb") as opened:
            got = hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if got != md5.lower():
            raise MosaicError(
                f"{origin_of(file, key)}: expected md5 {md5}, got {got}: fetch the file again, or correct the md5"
            )
    return file


def find_files(pattern: str, key: str, md5: str | None = None) -> list[Path]:
    """Return the file of this name, or all files that a pattern with ``*`` matches, sorted by path.

    ``*`` stands for any name or part of one, in every part of the path, and ``**`` for any folders.

    Raises:
        MosaicError: there is no such file, its md5 differs, or an md5 is given for several files.
    """
    if "*" not in pattern:
        return [find_file(pattern, key, md5)]
    path = expand(pattern)
    first = next(place for place, part in enumerate(path.parts) if "*" in part)
    folder, rest = Path(*path.parts[:first]), str(Path(*path.parts[first:]))
    literal = re.sub(r"[\[?]", r"[\g<0>]", rest)  # * alone stands for others
    files = sorted(file for file in folder.glob(literal) if file.is_file())
    if not files:
        raise missing("file", path, key)
    if md5 is not None:
        raise MosaicError(
            f"data.source.init_args: expected no md5 for {len(files)} files that match {pattern}, got one: leave it out"
        )
    return files


def find_folder(path: str, key: str) -> Path:
    """Return an existing folder, or raise :class:`MosaicError`."""
    folder = expand(path)
    if not folder.is_dir():
        raise missing("folder", folder, key)
    return folder


def missing(kind: str, path: Path, key: str) -> MosaicError:
    """Return the error for a file or folder that does not exist."""
    if kind == "file" and path.is_dir():
        return MosaicError(
            f"{path.resolve()} is a folder where data.source.init_args.{key} expects a file: name a file in it, or all "
            f"of a kind, as {path}/*.parquet"
        )
    if kind == "folder" and path.exists():
        return MosaicError(
            f"{path.resolve()} is a file where data.source.init_args.{key} expects a folder: unpack an archive first; "
            "mosaic.data.NpzSource reads .npz files, and mosaic.data.ParquetSource .parquet"
        )
    unset = " (an environment variable in it is not set)" if "$" in str(path) else ""
    return MosaicError(
        f"{path.resolve()} does not exist{unset}: put the {kind} there, or name another with "
        f"--data.source.init_args.{key}"
    )


def origin_of(path: Path, key: str) -> str:
    """Name a file and the configuration key that points to it; errors begin with this."""
    return f"{path} (data.source.init_args.{key})"


def readable(read: Callable[[], T], origin: str) -> T:
    """Return what ``read`` returns; raise :class:`MosaicError` whenever it fails."""
    try:
        return read()
    except MosaicError:
        raise
    except Exception as error:  # zipfile, numpy, pyarrow and Pillow raise errors of their own
        raise unreadable(error, origin) from error


def unreadable(error: Exception, origin: str) -> MosaicError:
    """Return the error for a file that cannot be read."""
    return MosaicError(f"{origin} cannot be read ({first_line(error)}): fetch the file again")


def file_identity(files: Iterable[Path]) -> Iterator[object]:
    """Yield path, size and modification time of each file, which the cache compares."""
    for file in files:
        status = file.stat()
        yield str(file.resolve()), status.st_size, status.st_mtime_ns
