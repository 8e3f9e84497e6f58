"""Show how far a command is: the log, a bar for rounds, and how much time is left."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from lightning.fabric.utilities.rank_zero import rank_zero_only
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

log = logging.getLogger("mosaic")


def configure_logging() -> None:
    """Send the package's log to standard error: rich on a terminal, plain lines elsewhere."""
    log.handlers.clear()
    handler: logging.Handler
    if sys.stderr.isatty():
        handler = RichHandler(console=_console(), show_path=False, show_level=False, log_time_format="%H:%M:%S")
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.addHandler(handler)
    log.setLevel(logging.INFO if first_rank() else logging.ERROR)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    log.propagate = False


def first_rank() -> bool:
    """Whether this process is the first, as far as its environment says before a launch."""
    return int(getattr(rank_zero_only, "rank", None) or 0) == 0


@cache
def _console() -> Console:
    return Console(stderr=True)


_MONTH = 30 * 24 * 3600.0


def time_left(seconds: float, done: int, left: int) -> str:
    """Say how long the rest takes if it goes on as it went, or nothing where that is not known or nothing is left.

    Args:
        seconds: that have passed.
        done: parts of the work that these have brought.
        left: parts that are left.

    >>> time_left(30, done=3, left=2), time_left(600, done=1, left=2), time_left(9000, done=1, left=3)
    ('about 20 s left', 'about 20 min left', 'about 7.5 h left')
    >>> time_left(30, done=3, left=0)
    ''
    """
    if not (done and left):
        return ""
    rest = seconds / done * left
    if rest < 100:
        return f"about {rest:.0f} s left"
    return f"about {rest / 60:.0f} min left" if rest < 100 * 60 else f"about {rest / 3600:.1f} h left"


@contextmanager
def rounds_bar(first: int, last: int) -> Iterator[Iterator[int]]:
    """Yield the rounds from ``first`` to ``last`` under a bar, if this is a terminal."""
    if not (sys.stderr.isatty() and first_rank()):
        yield iter(range(first, last + 1))
        return
    columns = (TextColumn("round"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    # a round may take minutes, and rich forgets after half a minute how fast it went
    with Progress(*columns, console=_console(), transient=True, speed_estimate_period=_MONTH) as progress:
        bar = progress.add_task("rounds", total=last, completed=first - 1)

        def advance() -> Iterator[int]:
            for round in range(first, last + 1):
                yield round
                progress.advance(bar)

        yield advance()
