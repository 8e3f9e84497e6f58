"""SIGTERM, SIGUSR1 and Ctrl-C: finish the optimiser step in hand, then leave with a code that says how to go on.

PyTorch is imported where it is needed: the command line heeds signals before it knows what it is asked for.
"""

import atexit
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: nothing is wrong, try again later."""
FIRST_PROCESS_FOLDER = "MOSAIC_FIRST_PROCESS_FOLDER"
"""Variable that tells a process that another one has started it, and where that one keeps what is to be cleared."""
INTERRUPTED = 130
"""What shells make of SIGINT: 128 and its number."""
_MOMENT = 0.3
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name))
_received: signal.Signals | None = None


class Preempted(SystemExit):
    """Somebody wants this process to leave; its exit code is :data:`EXIT_CODE`, or :data:`INTERRUPTED` after Ctrl-C.

    Args:
        cause: the signal.
        code: 0 for ranks that leave after the first one, whose code counts: launchers end all as soon as one fails.

    Attributes:
        cause: the signal.
        when: what was going on, and what that means, in words.
    """

    when = "before anything was begun"

    def __init__(self, cause: signal.Signals, code: int | None = None) -> None:
        usual = INTERRUPTED if cause == signal.SIGINT else EXIT_CODE
        super().__init__(usual if code is None else code)
        self.cause = cause

    def __str__(self) -> str:
        return f"{'interrupted' if self.cause == signal.SIGINT else 'asked to leave'} {self.when}"


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """Turn a signal inside this block into :class:`Preempted` where it comes: nothing is in hand that could be lost.

    It is noted too, in case that whatever runs there swallows exceptions.
    """

    def leave(number: int, _: FrameType | None) -> None:
        _take_note(number, None)
        raise Preempted(signal.Signals(number))

    with _handling(leave):
        yield


@contextmanager
def heeding_signals() -> Iterator[None]:
    """Take note of signals inside this block, and turn whatever they cause into :class:`Preempted`.

    Lightning leaves a Trainer on SIGTERM with an exit of its own, whose code says that all is well.
    """
    _leave(_received)
    with _handling(_take_note):
        try:
            yield
        except SystemExit as leaving:
            raise preempted(leaving) or leaving from leaving.__cause__


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Let signals come to a handler, in the main thread; elsewhere, as in some notebooks, nothing changes."""
    global _received
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        _received = None
        for number, former in before.items():
            signal.signal(number, former)


def preempted(error: BaseException) -> Preempted | None:
    """Return an exit that a signal has caused as such; nothing for any other exception."""
    if isinstance(error, Preempted):
        return error
    return Preempted(_received) if isinstance(error, SystemExit) and _received is not None else None


def is_told_to_leave(error: BaseException) -> bool:
    """Whether an exception is the answer to a signal, ours or Lightning's, and no exit of a client's own code."""
    if not isinstance(error, SystemExit):
        return False
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    return isinstance(error, Preempted) or _received is not None or isinstance(error.__context__, SIGTERMException)


@contextmanager
def keeping_handlers() -> Iterator[None]:
    """Put back our handlers after a library that installs its own."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def ignore_signals() -> None:
    """Leave the decision to the first process, which hears the same signals and ends the others."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def leave_if_asked() -> None:
    """Leave if a signal came; ranks that train together leave together, as the first one says.

    Raises:
        Preempted: a signal came.
    """
    if _world_size() == 1:
        _leave(_received)
        return
    import torch

    on_gpu = torch.distributed.get_backend() == "nccl"
    number = torch.tensor(_received or 0, device="cuda" if on_gpu else "cpu")
    torch.distributed.broadcast(number, src=0)
    _leave(signal.Signals(int(number)) if number else None, code=0 if torch.distributed.get_rank() else None)


def leave_if_alone_and_asked() -> None:
    """Leave if a signal came; ranks that train together go on to their next phase, and leave together there.

    Called between phases, where a server may judge images for minutes.

    Raises:
        Preempted: a signal came.
    """
    if _received is not None and _world_size() == 1:
        _leave(_received)


class Heeded:
    """Batches between which a process alone leaves if it is asked to; ranks that train together finish the phase.

    Args:
        batches: with or without a length.
    """

    def __init__(self, batches: Iterable[Any]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)  # type: ignore[arg-type]  # a TypeError tells Lightning that there is none

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches:
            leave_if_alone_and_asked()
            yield batch


def _take_note(number: int, _: FrameType | None) -> None:
    global _received
    _received = signal.Signals(number)


def _leave(received: signal.Signals | None, code: int | None = None) -> None:
    if received is not None:
        raise Preempted(received, code)


def wait_for_the_first(error: BaseException) -> None:
    """Let ranks that leave together wait until the first one has written its snapshot, and come here too."""
    if isinstance(error, Preempted) and _world_size() > 1:
        import torch

        torch.distributed.barrier()


def _world_size() -> int:
    """Return how many processes train together."""
    from mosaic.batches import world_size

    return world_size()


def end_with_the_first() -> None:
    """Let a process that another one has started end as soon as that one is gone, however that came about.

    The first process holds the other end of the standard input, which closes when it ends.
    """
    if FIRST_PROCESS_FOLDER not in os.environ:
        return

    def follow() -> None:
        with suppress(OSError, ValueError):
            sys.stdin.buffer.read()
        clear_after_the_first()
        time.sleep(_MOMENT)  # for what it says itself
        os._exit(1)

    atexit.register(clear_after_the_first)
    threading.Thread(target=follow, daemon=True).start()


def clear_after_the_first() -> None:
    """Remove what the process that has started this one keeps for it, in case that one cannot."""
    if folder := os.environ.get(FIRST_PROCESS_FOLDER):
        shutil.rmtree(folder, ignore_errors=True)
