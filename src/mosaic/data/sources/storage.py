"""Where decoded images live: in memory if they are few, else in a file that is decoded once and mapped into memory."""

import hashlib
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mosaic.data.sources.files import expand
from mosaic.errors import MosaicError, first_line

log = logging.getLogger(__name__)

Fill = Callable[[np.ndarray], None]
"""Writes every image into an array of uint8, shape ``(N, channels, H, W)``."""


def in_memory(shape: tuple[int, ...], fill: Fill) -> Tensor:
    """Decode into memory."""
    pixels = np.empty(shape, dtype=np.uint8)
    fill(pixels)
    return torch.from_numpy(pixels)


class Cache:
    """A folder of decoded images.

    Each file is written aside under a lock and renamed when complete, so that a killed process leaves nothing that
    looks whole, and processes that start together decode once.

    Args:
        folder: is made where it does not exist.
    """

    def __init__(self, folder: str) -> None:
        self.folder = expand(folder)

    def mapped(self, shape: tuple[int, ...], fingerprint: str, fill: Fill) -> Tensor:
        """Return images mapped into memory, decoding them first unless that has been done.

        Args:
            shape: ``(N, channels, H, W)``.
            fingerprint: of the images, the rules and the shape.
            fill: decodes.

        Returns:
            uint8 of that shape; writes to it do not reach the file.

        Raises:
            MosaicError: the folder cannot be written to, or lacks space.
        """
        from filelock import FileLock  # comes with torch

        file = self.folder / f"{fingerprint}.npy"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(file.with_suffix(".lock")):
                if file.exists():
                    log.info("images are read from %s, where an earlier start has decoded them", file)
                else:
                    self._write(file, shape, fill)
        except OSError as error:
            raise MosaicError(
                f"{self.folder} (data.source.init_args.cache_dir) cannot be written to ({first_line(error)}): "
                "choose another folder"
            ) from error
        return torch.from_numpy(np.load(file, mmap_mode="c"))  # "c": torch warns of arrays that are not writable

    def _write(self, file: Path, shape: tuple[int, ...], fill: Fill) -> None:
        self._check_space(shape)
        log.info("%d images are decoded once into %s", shape[0], file)
        partial = file.with_suffix(".partial")
        try:
            pixels = np.lib.format.open_memmap(partial, "w+", np.uint8, shape)
            fill(pixels)
            pixels.flush()
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)

    def _check_space(self, shape: tuple[int, ...]) -> None:
        needed, free = int(np.prod(shape)), shutil.disk_usage(self.folder).free
        if needed > free:  # a mapped file on a full disk would kill the process
            raise MosaicError(
                f"{self.folder} (data.source.init_args.cache_dir): expected {needed / 2**30:.1f} GiB of free space, "
                f"got {free / 2**30:.1f}: choose another folder, or raise data.source.init_args.memory_limit_gib"
            )


def fingerprint(*facts: object) -> str:
    """Return 32 hexadecimal digits that differ where any fact does."""
    digest = hashlib.sha256()
    for fact in facts:
        digest.update(fact if isinstance(fact, bytes) else repr(fact).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:32]
