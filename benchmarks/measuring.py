"""What the speed benchmarks share: variants timed in turn, ratios of neighbours in time, figures with bars."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

Variants = Mapping[str, Callable[[], object]]
Seconds = dict[str, list[float]]


@dataclass(frozen=True)
class Figure:
    """One ratio, measured in one run, and what it has to reach.

    Attributes:
        name: of what was measured.
        ratio: its median.
        bar: to reach.
        at_most: whether smaller is better.
        detail: the times behind it.
    """

    name: str
    ratio: float
    bar: float
    at_most: bool
    detail: str

    @property
    def holds(self) -> bool:
        """Whether the bar is reached."""
        return self.ratio <= self.bar if self.at_most else self.ratio >= self.bar

    def cells(self) -> tuple[str, str, str, str, str]:
        """Return the figure as a row of a table."""
        bar = f"{'at most' if self.at_most else 'at least'} {self.bar:.2f}"
        return self.name, f"{self.ratio:.3f}", bar, "holds" if self.holds else "**missed**", self.detail


HEADER = ("figure", "ratio", "bar", "", "medians")


def in_turn(
    variants: Variants,
    pairs: int,
    repeats: int = 1,
    inside: Callable[[str], AbstractContextManager[object]] = lambda _: nullcontext(),
) -> Seconds:
    """Time all variants once in every round, each time beginning with another one.

    Args:
        variants: what to time.
        pairs: rounds.
        repeats: calls for each time taken.
        inside: what surrounds the calls of a variant and is not timed.

    Returns:
        Seconds of one call, for every variant and round.
    """
    names = list(variants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for pair in range(pairs):
        shift = pair % len(names)
        for name in names[shift:] + names[:shift]:
            with inside(name):
                start = time.perf_counter()
                for _ in range(repeats):
                    variants[name]()
                seconds[name].append((time.perf_counter() - start) / repeats)
    return seconds


def ratio(seconds: Seconds, one: str, other: str) -> float:
    """Return the median over the rounds of one variant's time over another's."""
    return statistics.median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))


def medians(seconds: Seconds) -> str:
    """Return every variant's median time in words."""
    return ", ".join(f"{name} {_short(statistics.median(times))}" for name, times in seconds.items())


def _short(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 10 else f"{1000 * seconds:.1f} ms"


def show(figures: Sequence[Figure]) -> bool:
    """Print figures; return whether all of them hold."""
    table = Table(*HEADER)
    for figure in figures:
        table.add_row(*(cell.replace("**", "") for cell in figure.cells()))
    Console(width=140).print(table)
    return all(figure.holds for figure in figures)
