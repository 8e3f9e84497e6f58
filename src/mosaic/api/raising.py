"""Raise an exception where the command line would print one line and exit."""

import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from mosaic.cli.complaints import one_line
from mosaic.errors import MosaicError
from mosaic.training.signals import Preempted


@contextmanager
def raising() -> Iterator[None]:
    """Raise :class:`MosaicError` where a command would print that line, and ``KeyboardInterrupt`` after Ctrl-C.

    A signal that asks this process to leave is no error: it still ends a script with code 75.
    """
    try:
        with one_line():
            yield
    except Preempted as leaving:
        if leaving.cause == signal.SIGINT:
            raise KeyboardInterrupt(str(leaving)) from None
        raise
    except SystemExit as leaving:
        if isinstance(leaving.__cause__, MosaicError):  # of a rank that ends after the first
            raise leaving.__cause__ from None
        raise MosaicError(
            f"the command line would have left with code {leaving.code}: see what it has printed"
        ) from None


def refuse_in_children() -> None:
    """Refuse to begin work in a process that reads a script once more, only to find what it is to call.

    Raises:
        MosaicError: this is such a process.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise MosaicError(
            'expected what a script does below `if __name__ == "__main__":`, since processes that it starts read it '
            "from the beginning: put these calls there"
        )
