"""Decode the pictures of a split into one array."""

import logging
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from mosaic.data.sources.pictures import Block, Pictures
from mosaic.data.sources.rules import MADE_COLOUR, SCALED, Rules, scale_to_eight_bits
from mosaic.data.sources.storage import Fill
from mosaic.errors import MosaicError, first_line

log = logging.getLogger(__name__)


class ColourAmongGreyError(Exception):
    """A picture is colour while the ones before it were grey."""


def first_shape(pictures: Pictures, rules: Rules) -> tuple[int, int, int]:
    """Decode the first picture only, and return channels, height and width.

    Raises:
        MosaicError: it cannot be decoded.
    """
    for block in pictures:
        for _, pixels in _decoded(block[:1], 0, pictures, rules, Counter()):
            channels = 1 if pixels.ndim == 3 else 3
            return channels, pixels.shape[1], pixels.shape[2]
    raise MosaicError(f"{pictures.origin}: expected at least one picture, got none: fetch the file again")


def decode_into(pictures: Pictures, rules: Rules) -> Fill:
    """Return a function that decodes all pictures into an array and logs what the rules have changed.

    The function raises :class:`ColourAmongGreyError` where the array has one channel and a picture three, and
    :class:`MosaicError` where a picture cannot be decoded or has another size.
    """

    def fill(out: np.ndarray) -> None:
        notes: Counter[str] = Counter()
        row = 0
        for block in pictures:
            for name, pixels in _decoded(block, row, pictures, rules, notes):
                _check_size(name, pixels, out, pictures.origin)
                pixels = pixels.transpose(0, 3, 1, 2) if pixels.ndim == 4 else pixels[:, None]
                if pixels.shape[1] > out.shape[1]:
                    raise ColourAmongGreyError
                out[row : row + len(pixels)] = pixels
                row += len(pixels)
        for note, count in notes.items():
            log.info("%s: %d of %d images are %s", pictures.origin, count, row, note)

    return fill


def _decoded(
    block: Block, row: int, pictures: Pictures, rules: Rules, notes: Counter[str]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and pixels, shape ``(n, H, W)`` or ``(n, H, W, 3)``, n being 1 for pictures that differ."""
    if isinstance(block, np.ndarray):
        block = _eight_bits(block, pictures.origin, notes)
        if _needs_nothing(block, rules):
            grey = block.ndim == 3 or block.shape[-1] == 1
            if grey and rules.channels == 3:
                notes[MADE_COLOUR] += len(block)
            yield f"image {row}", block.reshape(block.shape[:3]) if grey else block
            return
        block = [(f"image {row + i}", pixels) for i, pixels in enumerate(block)]
    for name, (pixels, changes) in _each(block, pictures, rules):
        notes.update(changes)
        yield name, pixels[None]


def _each(
    block: list[tuple[str, Any]], pictures: Pictures, rules: Rules
) -> Iterator[tuple[str, tuple[np.ndarray, list[str]]]]:
    def decode(named: tuple[str, Any]) -> tuple[str, tuple[np.ndarray, list[str]]]:
        name, picture = named
        try:
            return name, rules.decode(picture)
        except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and more
            raise MosaicError(
                f"{pictures.origin}: {name} cannot be decoded ({first_line(error)}): {pictures.advice}"
            ) from error

    if rules.size is None:  # small pictures: threads would only wait for each other
        yield from map(decode, block)
    else:
        with ThreadPoolExecutor() as pool:
            yield from pool.map(decode, block)


def _eight_bits(block: np.ndarray, origin: str, notes: Counter[str]) -> np.ndarray:
    channels = block.shape[-1] if block.ndim == 4 else 1
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


def _needs_nothing(block: np.ndarray, rules: Rules) -> bool:
    channels = block.shape[-1] if block.ndim == 4 else 1
    return (
        channels in (1, 3)
        and rules.size in (None, block.shape[1:3])
        and (rules.channels is None or rules.channels >= channels)  # grey is repeated as it is written
    )


def _check_size(name: str, pixels: np.ndarray, out: np.ndarray, origin: str) -> None:
    got, expected = pixels.shape[1:3], out.shape[2:]
    if got != expected:
        raise MosaicError(
            f"{origin}: expected images of one size, got {name} of {got[0]} x {got[1]} after {expected[0]} x "
            f"{expected[1]} (height x width): set data.source.init_args.resize to a number of pixels or [height, width]"
        )
