"""SIGTERM and SIGUSR1: finish the optimiser step in hand, then leave with a code that says the run can go on."""

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

from mosaic.batches import world_size

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: nothing is wrong, try again later."""
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
_received: signal.Signals | None = None


class Preempted(SystemExit):
    """Somebody wants this process to leave; its exit code is :data:`EXIT_CODE`.

    Args:
        cause: the signal.
        code: 0 for ranks that leave after the first one, whose code counts: launchers end all as soon as one fails.
    """

    def __init__(self, cause: signal.Signals, code: int = EXIT_CODE) -> None:
        super().__init__(code)
        self.cause = cause


@contextmanager
def heeding_signals() -> Iterator[None]:
    """Take note of signals inside this block, and turn whatever they cause into :class:`Preempted`.

    Lightning leaves a Trainer on SIGTERM with an exit of its own, whose code says that all is well. Signals reach the
    main thread only; elsewhere, as in some notebooks, nothing changes.
    """
    global _received
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _received = None
    before = {number: signal.signal(number, _take_note) for number in _SIGNALS}
    try:
        yield
    except SystemExit as leaving:
        if _received is None or isinstance(leaving, Preempted):
            raise
        raise Preempted(_received) from leaving
    finally:
        _received = None
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C be a KeyboardInterrupt inside a Trainer too, which else leaves with code 1 and is deaf to others."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as leaving:
        if not isinstance(leaving.__context__, KeyboardInterrupt):
            raise
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
        raise leaving.__context__ from None


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
    for number in (*_SIGNALS, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def leave_if_asked() -> None:
    """Leave if a signal came; ranks that train together leave together, as the first one says.

    Raises:
        Preempted: a signal came.
    """
    if world_size() == 1:
        _leave(_received)
        return
    on_gpu = torch.distributed.get_backend() == "nccl"
    number = torch.tensor(_received or 0, device="cuda" if on_gpu else "cpu")
    torch.distributed.broadcast(number, src=0)
    _leave(signal.Signals(int(number)) if number else None, code=0 if torch.distributed.get_rank() else EXIT_CODE)


def leave_if_alone_and_asked() -> None:
    """Leave if a signal came; ranks that train together go on to their next phase, and leave together there.

    Called between phases, where a server may judge images for minutes.

    Raises:
        Preempted: a signal came.
    """
    if world_size() == 1:
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


def _leave(received: signal.Signals | None, code: int = EXIT_CODE) -> None:
    if received is not None:
        raise Preempted(received, code)


def wait_for_the_first(error: BaseException) -> None:
    """Let ranks that leave together wait until the first one has written its snapshot, and come here too."""
    if isinstance(error, Preempted) and world_size() > 1:
        torch.distributed.barrier()
