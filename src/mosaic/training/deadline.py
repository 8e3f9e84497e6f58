"""A deadline for what this process computes for a client: training stops between two batches once it has passed."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

_end = float("inf")


class DeadlinePassedError(Exception):
    """The deadline has passed."""


@contextmanager
def ending_within(seconds: float | None) -> Iterator[None]:
    """Set a deadline for the block, or none."""
    global _end
    before, _end = _end, time.monotonic() + (float("inf") if seconds is None else seconds)
    try:
        yield
    finally:
        _end = before


def stop_if_late() -> None:
    """Raise :class:`DeadlinePassedError` if a deadline has passed."""
    if time.monotonic() > _end:
        raise DeadlinePassedError
