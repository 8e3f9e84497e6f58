"""Decode the pictures of a split into one array."""

import logging
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np

from mosaic.data.sources.pictures import Block, Pictures
from mosaic.data.sources.rules import MADE_COLOUR, SCALED, Rules, check_scaled, scale_to_eight_bits
from mosaic.data.sources.storage import Fill
from mosaic.errors import MosaicError, first_line

log = logging.getLogger(__name__)


class ColourAmongGreyError(Exception):
    """A picture is colour although the ones before it were grey."""


def first_shape(pictures: Pictures, rules: Rules) -> tuple[int, int, int]:
    """Decode the first picture, and return its channels, height and width."""
    _, pixels, _ = next(found for block in pictures for found in _decoded(block[:1], 0, pictures, rules, Counter()))
    return 1 if pixels.ndim == 3 else 3, pixels.shape[1], pixels.shape[2]


def decode_into(pictures: Pictures, rules: Rules) -> Fill:
    """Return a function that decodes all pictures into an array, and logs what the rules have changed.

    The function raises :class:`ColourAmongGreyError` if the array has one channel and a picture three, and
    :class:`MosaicError` if a picture cannot be decoded or has another size.
    """

    def fill(out: np.ndarray) -> None:
        notes: Counter[str] = Counter()
        row = largest = 0
        for block in pictures:
            for name, pixels, scaled in _decoded(block, row, pictures, rules, notes):
                got, expected = pixels.shape[1:3], out.shape[2:]
                if got != expected:
                    raise MosaicError(
                        f"{pictures.origin}: expected images of one size, got {name} of {got[0]} x {got[1]} after "
                        f"{expected[0]} x {expected[1]} (height x width): set data.source.init_args.resize"
                    )
                pixels = pixels.transpose(0, 3, 1, 2) if pixels.ndim == 4 else pixels[:, None]
                if pixels.shape[1] > out.shape[1]:
                    raise ColourAmongGreyError
                out[row : row + len(pixels)] = pixels
                row += len(pixels)
                largest = max(largest, int(pixels.max(initial=0))) if scaled else largest
        for note, count in notes.items():
            log.info("%s: %d of %d images are %s", pictures.origin, count, row, note)
        if notes[SCALED]:
            check_scaled(largest, pictures.origin)

    return fill


def _decoded(
    block: Block, row: int, pictures: Pictures, rules: Rules, notes: Counter[str]
) -> Iterator[tuple[str, np.ndarray, bool]]:
    """Yield names, pixels of shape ``(n, H, W)`` or ``(n, H, W, 3)``, and whether rule 2 has scaled them.

    n is 1 for pictures decoded one by one.
    """
    deep = isinstance(block, np.ndarray) and block.dtype.itemsize == 2
    if isinstance(block, np.ndarray):
        block = _eight_bits(block, pictures.origin, notes)
        channels = block.shape[-1] if block.ndim == 4 else 1
        fits = channels in (1, 3) and (rules.channels is None or rules.channels >= channels)
        if fits and rules.size in (None, block.shape[1:3]):
            if channels == 1 and rules.channels == 3:  # grey is repeated when it is written
                notes[MADE_COLOUR] += len(block)
            yield f"image {row}", block.reshape(block.shape[:3]) if channels == 1 else block, deep
            return
        block = [(f"image {row + i}", pixels) for i, pixels in enumerate(block)]

    def decode(named: tuple[str, Any]) -> tuple[np.ndarray, list[str]]:
        try:
            return rules.decode(named[1])
        except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and more
            raise MosaicError(
                f"{pictures.origin}: {named[0]} cannot be decoded ({_reason(error)}): {pictures.advice}"
            ) from error

    # threads do not speed up small pictures
    with nullcontext() if rules.size is None else ThreadPoolExecutor() as threads:
        for (name, _), (pixels, changes) in zip(block, (threads.map if threads else map)(decode, block), strict=True):
            notes.update(changes)
            yield name, pixels[None], deep or SCALED in changes


def _reason(error: Exception) -> str:
    """Return Pillow's reason, without the address in memory of what it was given."""
    return re.sub(r" <_io\.\w+ object at 0x\w+>", "", first_line(error))


def _eight_bits(block: np.ndarray, origin: str, notes: Counter[str]) -> np.ndarray:
    channels = block.shape[-1] if block.ndim == 4 else 1
    block = block.astype(block.dtype.newbyteorder("="), copy=False)
    if block.dtype not in (np.uint8, np.uint16) or block.ndim not in (3, 4):
        raise MosaicError(
            f"{origin}: expected uint8 or uint16 images of shape (N, H, W) or (N, H, W, channels), "
            f"got {block.dtype} of shape (N, {', '.join(map(str, block.shape[1:]))}): convert them first"
        )
    if channels not in (1, 2, 3, 4):
        raise MosaicError(
            f"{origin}: expected 1 to 4 channels (grey or colour, with or without alpha), "
            f"got images of shape {block.shape[1:]}: store flat images, one per label"
        )
    if block.dtype == np.uint8:
        return block
    notes[SCALED] += len(block)
    return scale_to_eight_bits(block)
