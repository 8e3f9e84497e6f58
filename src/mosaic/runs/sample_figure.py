"""Draw generated images by class, each with its distance to a real one where that is known."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mosaic.runs.figures import INK, Picture

COLUMNS = 8
"""Images side by side."""
_TILE = 0.6
_GAP = 0.05
_CAPTION = 0.18


def class_samples(
    images: np.ndarray,
    labels: np.ndarray | None = None,
    class_names: Sequence[str] = (),
    distances: np.ndarray | None = None,
    title: str = "",
) -> Picture:
    """Draw images in rows, from pixels in ``[0, 1]``; every class begins a row with its name.

    Args:
        images: shape ``(N, channels, H, W)``.
        labels: shape ``(N,)``; without them all images are of one class without a name.
        class_names: C names.
        distances: written under the images, shape ``(N,)``.
        title: above all.
    """
    classes = np.zeros(len(images), dtype=np.int64) if labels is None else labels
    rows = _rows(classes)
    names = ["" if labels is None else class_names[classes[row[0]]] for row in rows]
    shown = [name if number == 0 or name != names[number - 1] else "" for number, name in enumerate(names)]
    ratio, columns = images.shape[2] / images.shape[3], max(len(row) for row in rows)
    margin = 0.12 + 0.078 * max(map(len, shown))
    head, caption = 0.26 if title else 0.04, _CAPTION if distances is not None else 0.0
    line = ratio * _TILE + caption + _GAP
    width, height = margin + columns * (_TILE + _GAP), head + len(rows) * line
    figure = Picture(figsize=(max(width, margin + 0.064 * len(title)), height), dpi=140)
    wide = figure.get_size_inches()[0]
    if title:
        figure.text(0.06 / wide, 1 - 0.08 / height, title, color=INK, fontsize=8, va="top")
    for number, row in enumerate(rows):
        top = height - head - number * line
        middle = (top - ratio * _TILE / 2) / height
        look: dict[str, Any] = {"color": INK, "fontsize": 9, "ha": "right", "va": "center", "parse_math": False}
        figure.text((margin - 0.08) / wide, middle, shown[number], **look)
        place = (margin / wide, (top - ratio * _TILE) / height)
        size = ((len(row) * (_TILE + _GAP) - _GAP) / wide, ratio * _TILE / height)
        axes = figure.add_axes((*place, *size))
        axes.set_axis_off()
        axes.imshow(_strip(images[row]), cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
        for column, index in enumerate(row if distances is not None else ()):
            x = (margin + column * (_TILE + _GAP) + _TILE / 2) / wide
            y = (top - ratio * _TILE - 0.03) / height
            assert distances is not None
            figure.text(x, y, f"{distances[index]:.2f}", color=INK, fontsize=8, ha="center", va="top")
    return figure


def _rows(classes: np.ndarray) -> list[np.ndarray]:
    """Return the images of each row: those of one class, at most so many side by side."""
    rows = []
    for label in np.unique(classes):
        mine = np.flatnonzero(classes == label)
        rows += [mine[start : start + COLUMNS] for start in range(0, len(mine), COLUMNS)]
    return rows


def _strip(images: np.ndarray) -> np.ndarray:
    """Return images side by side with white gaps, large enough for the gaps to be as wide as they should."""
    larger = max(1, round(96 / images.shape[3]))
    tiles = images.repeat(larger, 2).repeat(larger, 3)
    count, channels, height, width = tiles.shape
    gap = round(width * _GAP / _TILE)
    strip = np.ones((channels, height, count * (width + gap) - gap), dtype=tiles.dtype)
    for place, tile in enumerate(tiles):
        strip[:, :, place * (width + gap) : place * (width + gap) + width] = tile
    return strip.transpose(1, 2, 0)
