"""Draw matplotlib figures of arrays."""

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.ticker import MaxNLocator

INK = "#1f2430"
"""Colour of all text."""
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a7a7a")
"""Okabe and Ito's palette, which colour-blind readers can tell apart."""
_STYLES = ("-", "--", ":")
_MARKERS = ("o", "s", "^")
_MOST_LINES = 500
"""Lines of a heat map; a screen shows hardly more, and matplotlib needs twice the memory beyond."""
_MOST_NAMES = 30
"""Rows or columns that are named along an axis."""


_LONGEST_NAME = 18
"""Letters of a name along an axis."""
_FONTS = ("DejaVu Sans", "Noto Sans CJK JP", "Noto Sans", "Arial Unicode MS", "Hiragino Sans", "Microsoft YaHei")
"""Those that are there are asked for a letter in turn."""


class Picture(Figure):
    """A figure that notebooks show as it is, without pyplot; letters that no font has are boxes."""

    def draw(self, renderer: Any) -> None:
        """Draw it with whatever fonts there are."""
        with _any_letter():
            super().draw(renderer)

    def png(self) -> bytes:
        """Return the picture as the bytes of a PNG file."""
        drawn = io.BytesIO()
        self.savefig(drawn, format="png")
        return drawn.getvalue()

    _repr_png_ = png


def partition_heat_map(class_counts: np.ndarray, class_names: Sequence[str]) -> Picture:
    """Draw how many images of which class each client holds, from counts of shape ``(N, C)``."""
    return heat_map(class_counts, "client", "class", "Images per client and class", class_names)


def confusion_matrix(counts: np.ndarray, class_names: Sequence[str]) -> Picture:
    """Draw a confusion matrix (true classes by guesses, shape ``(C, C)``) as shares of each true class."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure = heat_map(shares, "true class", "guess", "Confusion on the test split", class_names)
    if len(class_names) <= _MOST_NAMES:
        figure.axes[0].set_yticks(range(len(class_names)), list(map(_short, class_names)), parse_math=False)
        _plain(figure, labelsize=8)
    return figure


def heat_map(
    values: np.ndarray, rows: str, columns: str, title: str = "", column_names: Sequence[str] | None = None
) -> Picture:
    """Draw a matrix; small ones with their numbers, tall ones with means over neighbouring rows.

    Args:
        values: shape ``(R, K)``.
        rows: what a row is.
        columns: what a column is.
        title: above the picture.
        column_names: K names; shown when there are at most 30.
    """
    height, width = values.shape
    figure = Picture(figsize=(max(4.5, 0.55 * min(width, 30) + 1.8), max(3.2, 0.34 * min(height, 40) + 1.4)), dpi=110)
    axes, extent = figure.add_subplot(), (-0.5, width - 0.5, height - 0.5, -0.5)
    several = -(-height // _MOST_LINES)
    lines = [values[start : start + several].mean(0) for start in range(0, height, several)] if several > 1 else values
    look: dict[str, Any] = {"aspect": "auto", "cmap": "Blues", "interpolation": "nearest", "extent": extent}
    picture = axes.imshow(lines, vmin=0, vmax=max(float(values.max()), 1e-9), **look)
    axes.set_xlabel(columns, color=INK)
    axes.set_ylabel(rows if several == 1 else f"{rows} (each line the mean of {several})", color=INK)
    axes.set_title(title, loc="left", color=INK, fontsize=11)
    if height <= _MOST_NAMES:
        axes.set_yticks(range(height))
    if column_names is not None and width <= _MOST_NAMES:
        long = max(len(name) for name in column_names) > 3
        turned: dict[str, Any] = {"rotation": 45, "ha": "right"} if long else {"rotation": 0, "ha": "center"}
        axes.set_xticks(range(width), list(map(_short, column_names)), parse_math=False, **turned)
    elif width <= _MOST_NAMES:
        axes.set_xticks(range(width))
    if height * width <= 400:
        _write_numbers(figure, values)
    colors = figure.colorbar(picture, ax=axes, fraction=0.046, pad=0.03)
    colors.outline.set_visible(False)
    colors.ax.tick_params(labelsize=8, colors=INK)
    return _plain(figure, labelsize=8)


class Band(NamedTuple):
    """A curve and half the width of the band around it, each of shape ``(R,)``."""

    places: np.ndarray
    heights: np.ndarray
    spread: np.ndarray


def bands(drawn: Mapping[str, Band], x_label: str, y_label: str) -> Picture:
    """Draw curves with bands around them, the first one boldest.

    Every curve has a line style of its own, for readers who see no colours. Curves of one point each, all of the same
    round, stand side by side.
    """
    figure = Picture(figsize=(7.2, 4.4), dpi=110)
    axes = figure.add_subplot()
    shifts = _side_by_side([band.places for band in drawn.values()])
    for number, (name, (places, heights, spread)) in enumerate(drawn.items()):
        color, style = _COLORS[number % len(_COLORS)], _STYLES[number // len(_COLORS) % len(_STYLES)]
        look: dict[str, Any] = {"color": color, "linewidth": 1.4 if number else 2.4, "zorder": 90 - number}
        if len(places) > 1:
            axes.plot(places, heights, style, label=name, **look)
            axes.fill_between(places, heights - spread, heights + spread, color=color, alpha=0.12, lw=0, zorder=2)
        else:  # neither a line nor a band would have any width
            marker = _MARKERS[number // len(_COLORS) % len(_MARKERS)]
            axes.errorbar(places + shifts[number], heights, spread, fmt=marker, capsize=3, label=name, **look)
    if all(np.array_equal(band.places, np.round(band.places)) for band in drawn.values()):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))  # there is no round 0.96
    if shifts.any():
        ((middle,),) = {tuple(band.places) for band in drawn.values()}
        axes.set_xlim(middle - 0.6, middle + 0.6)
    if y_label.endswith("%"):
        axes.set_ylim(top=min(axes.get_ylim()[1], 101))
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    axes.grid(color="#d9dce3", linewidth=0.6)
    axes.set_axisbelow(True)
    for text in axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5)).get_texts():
        text.set_parse_math(False)
    return _plain(figure, labelsize=9)


def _side_by_side(places: Sequence[np.ndarray]) -> np.ndarray:
    """Return how far to move each curve to the right: zero, unless every curve is one point of the same round."""
    same = all(len(each) == 1 and each == places[0] == np.round(each) for each in places)
    return np.linspace(-0.35, 0.35, len(places)) if same and len(places) > 1 else np.zeros(len(places))


def _plain(figure: Picture, labelsize: int) -> Picture:
    """Leave out frame and tick marks."""
    axes = figure.axes[0]
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=labelsize, colors=INK)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_fontfamily(_fonts())
    with _any_letter():
        figure.tight_layout()
    return figure


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


@cache
def _fonts() -> list[str]:
    there = {font.name for font in fontManager.ttflist}
    return [name for name in _FONTS if name in there]


@contextmanager
def _any_letter() -> Iterator[None]:
    """Say nothing of letters that no font has."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .*missing from")
        yield


def _write_numbers(figure: Figure, values: np.ndarray) -> None:
    axes, dark = figure.axes[0], 0.55 * float(values.max())
    whole = np.issubdtype(values.dtype, np.integer)
    for row, column in zip(*np.nonzero(values >= (1 if whole else 0.005)), strict=True):
        value = values[row, column]
        text = f"{value:d}" if whole else f"{value:.2f}".removeprefix("0")
        color = "white" if value > dark else INK
        axes.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
