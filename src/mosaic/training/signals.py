"""SIGTERM, SIGUSR1 and Ctrl-C: finish the optimiser step in hand, then leave with a code that says how to go on.

PyTorch is imported where it is needed: the command line handles signals before it knows what it is asked for.
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
from subprocess import Popen
from types import FrameType
from typing import Any

from mosaic.training.deadline import stop_if_late

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h: nothing is wrong, try again later."""
FIRST_PROCESS_FOLDER = "MOSAIC_FIRST_PROCESS_FOLDER"
"""Environment variable of a process that another one has started: the folder with what the starter must clear."""
FIRST_PROCESS = "MOSAIC_FIRST_PROCESS"
"""Environment variable of a process that another one has started: the number of the starter."""
INTERRUPTED = 130
"""The exit code of shells after SIGINT: 128 plus its number."""
_MOMENT = 0.3
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name))
_received: signal.Signals | None = None


class Preempted(SystemExit):
    """The exit that a signal causes, with :data:`EXIT_CODE`, or :data:`INTERRUPTED` after Ctrl-C.

    Args:
        cause: the signal.
        code: 0 for ranks that leave after rank 0, whose code counts: launchers end all ranks as soon as one fails.

    Attributes:
        cause: the signal.
        when: what was going on and what is lost, in words.
    """

    when = "before anything was begun"

    def __init__(self, cause: signal.Signals, code: int | None = None) -> None:
        usual = INTERRUPTED if cause == signal.SIGINT else EXIT_CODE
        super().__init__(usual if code is None else code)
        self.cause = cause

    def __reduce__(self) -> tuple[Any, ...]:
        """Let a process tell another one of it; as an exception of Python's it would be remade from its code alone."""
        return type(self), (self.cause, self.code), vars(self)

    def __str__(self) -> str:
        return f"{'interrupted' if self.cause == signal.SIGINT else 'asked to leave'} {self.when}"


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """Raise :class:`Preempted` as soon as a signal comes, and remember the signal in case somebody swallows that."""

    def leave(number: int, _: FrameType | None) -> None:
        _remember(number, None)
        raise Preempted(signal.Signals(number))

    with _handling(leave):
        yield


@contextmanager
def finishing() -> Iterator[None]:
    """Remember signals and let nobody leave: what is left to do takes a moment."""
    with _handling(_remember):
        yield


@contextmanager
def heeding_signals() -> Iterator[None]:
    """Remember signals, and turn any exit that they cause into :class:`Preempted`.

    On SIGTERM, Lightning leaves a Trainer with an exit of its own, whose code reports success.
    """
    _leave(_received)
    with _handling(_remember):
        try:
            yield
        except SystemExit as leaving:
            raise preempted(leaving) or leaving from leaving.__cause__


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Install a handler in the main thread; in other threads, as in some notebooks, do nothing."""
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
    """Return an exit that a signal has caused as :class:`Preempted`, and ``None`` for any other exception."""
    if isinstance(error, Preempted):
        return error
    return Preempted(_received) if isinstance(error, SystemExit) and _received is not None else None


def is_told_to_leave(error: BaseException) -> bool:
    """Return whether a signal has caused an exception; a client's code may exit for other reasons."""
    if not isinstance(error, SystemExit):
        return False
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    return isinstance(error, Preempted) or _received is not None or isinstance(error.__context__, SIGTERMException)


@contextmanager
def keeping_handlers() -> Iterator[None]:
    """Restore our handlers after a library has installed its own."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def ignore_signals() -> None:
    """Ignore signals in a process that the first one ends, which gets the same signals."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def leave_if_asked() -> None:
    """Raise :class:`Preempted` if a signal came; ranks that train together leave together if rank 0 got one."""
    if _world_size() == 1:
        _leave(_received)
        return
    import torch

    on_gpu = torch.distributed.get_backend() == "nccl"
    number = torch.tensor(_received or 0, device="cuda" if on_gpu else "cpu")
    torch.distributed.broadcast(number, src=0)
    _leave(signal.Signals(int(number)) if number else None, code=0 if torch.distributed.get_rank() else None)


def leave_if_asked_unless_distributed() -> None:
    """Raise :class:`Preempted` if a signal came; ranks that train together leave together at their next phase."""
    if _received is not None and _world_size() == 1:
        _leave(_received)


class Interruptible:
    """Batches, between which a process leaves if a signal came or a deadline has passed, unless it is one of ranks."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)  # type: ignore[arg-type]  # a TypeError tells Lightning that there is none

    def __iter__(self) -> Iterator[Any]:
        alone = _world_size() == 1
        for batch in self._batches:
            leave_if_asked_unless_distributed()
            if alone:
                stop_if_late()
            yield batch


def wait_for_rank_0(error: BaseException) -> None:
    """Let ranks that leave together wait until rank 0 has written its snapshot and calls this too."""
    if isinstance(error, Preempted) and _world_size() > 1:
        import torch

        torch.distributed.barrier()


@contextmanager
def leaving_while_ranks_gather(children: Callable[[], Iterable[Popen[bytes]]]) -> Iterator[None]:
    """Let a signal end this process while it waits for others in PyTorch, where no handler of Python's is called.

    Afterwards signals are handled as before. Nothing has been begun while ranks gather, so nothing is lost.

    Args:
        children: returns the ranks that this process has started, which leave with it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_leave_unless_gathered, args=(reader, children), daemon=True)
    watcher.start()
    try:
        _leave(_received)  # one that has come before the watcher
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.write(writer, bytes(1))  # no signal has this number
        watcher.join()
        os.close(reader)
        os.close(writer)


def _leave_unless_gathered(signals: int, children: Callable[[], Iterable[Popen[bytes]]]) -> None:
    """Read numbers of signals until one is 0; end the process if one comes before its ranks are together."""
    import torch

    while number := os.read(signals, 1)[0]:
        if number in _SIGNALS and not torch.distributed.is_initialized():
            leaving = Preempted(signal.Signals(number))
            sys.stderr.write(f"mosaic: {leaving}\n")
            for child in children():
                child.terminate()
            with suppress(BaseException):
                atexit._run_exitfuncs()
            os._exit(int(str(leaving.code)))


def end_with_first_process() -> None:
    """Let a process that another one has started end with it, and remove what that one can then remove no more."""
    if FIRST_PROCESS_FOLDER in os.environ:
        atexit.register(remove_first_process_folder)
        _follow(int(os.environ[FIRST_PROCESS]))


def bind_ranks() -> None:
    """Let ranks that Lightning is about to start end with this process; as one of them, end with it.

    A rank in the middle of an exchange over NCCL does not learn that another one is gone until half an hour has passed.
    """
    first = os.getppid()
    if os.environ.get(FIRST_PROCESS) == str(first):
        _follow(first)
    else:
        os.environ[FIRST_PROCESS] = str(os.getpid())


def _follow(first: int) -> None:
    """End this process when the one of this number, which has started it, is gone."""

    def follow() -> None:
        while os.getppid() == first:
            time.sleep(_MOMENT)
        remove_first_process_folder()
        time.sleep(_MOMENT)  # so that the main thread can still report its error
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def remove_first_process_folder() -> None:
    """Remove the folder of the process that has started this one, in case that process cannot."""
    if folder := os.environ.get(FIRST_PROCESS_FOLDER):
        shutil.rmtree(folder, ignore_errors=True)


def _remember(number: int, _: FrameType | None) -> None:
    global _received
    _received = signal.Signals(number)


def _leave(received: signal.Signals | None, code: int | None = None) -> None:
    if received is not None:
        raise Preempted(received, code)


def _world_size() -> int:
    from mosaic.ranks import world_size

    return world_size()
