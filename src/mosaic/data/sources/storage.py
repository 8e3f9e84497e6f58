"""Keep decoded images in memory, or decode them once into a file that is mapped into memory."""

import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mosaic.data.sources.files import expand
from mosaic.disk import locked, name_aside
from mosaic.errors import MosaicError, first_line

log = logging.getLogger(__name__)

Fill = Callable[[np.ndarray], None]
"""Writes all images into a uint8 array of shape ``(N, channels, H, W)``."""


def in_memory(shape: tuple[int, ...], fill: Fill) -> Tensor:
    """Decode into memory."""
    pixels = np.empty(shape, dtype=np.uint8)
    fill(pixels)
    return torch.from_numpy(pixels)


def cached(cache_dir: str, shape: tuple[int, ...], fingerprint: str, fill: Fill) -> Tensor:
    """Return images mapped into memory, and decode them first if no file holds them.

    Each file is written under another name and a lock, and renamed when complete: a killed process leaves no partial
    file in its place, and of processes that start together only one decodes, where the file system has locks.

    Returns:
        uint8 of this shape, ``(N, channels, H, W)``; writes to it do not reach the file.

    Raises:
        MosaicError: the folder is not writable, or lacks space.
    """
    folder = expand(cache_dir)
    file = folder / f"{fingerprint}.npy"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(file.with_suffix(".lock")):
            if not _is_whole(file):
                _write(file, shape, fill)
    except OSError as error:
        raise MosaicError(
            f"{folder} (data.source.init_args.cache_dir) cannot be written to ({first_line(error)}): "
            "choose another folder"
        ) from error
    return torch.from_numpy(np.load(file, mmap_mode="c"))  # "c": torch warns of arrays that are not writable


def _is_whole(file: Path) -> bool:
    """Whether a file of images is there, and not cut, as by a crash of the machine."""
    if not file.exists():
        return False
    try:
        np.load(file, mmap_mode="r")
    except (ValueError, EOFError) as error:
        log.warning("%s is damaged (%s): images are decoded again", file, first_line(error))
        return False
    log.info("images are read from %s, where an earlier start has decoded them", file)
    return True


def _write(file: Path, shape: tuple[int, ...], fill: Fill) -> None:
    needed, free = int(np.prod(shape)), shutil.disk_usage(file.parent).free
    if needed > free:  # a mapped file on a full disk would kill the process
        raise MosaicError(
            f"{file.parent} (data.source.init_args.cache_dir): expected {needed / 2**30:.1f} GiB of free space, "
            f"got {free / 2**30:.1f}: choose another folder, or raise data.source.init_args.memory_limit_gib"
        )
    log.info("%d images are decoded once into %s", shape[0], file)
    partial = name_aside(file)
    try:
        pixels = np.lib.format.open_memmap(partial, "w+", np.uint8, shape)
        fill(pixels)
        pixels.flush()
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def fingerprint(*facts: object) -> str:
    """Return 32 hexadecimal digits that change if any fact changes."""
    digest = hashlib.sha256()
    for fact in facts:
        digest.update(fact if isinstance(fact, bytes) else repr(fact).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:32]
