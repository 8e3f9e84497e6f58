"""The contract of all executors, and how one request is answered in any process."""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import torch

from mosaic.client.worker import Worker
from mosaic.client_states import ClientStates
from mosaic.codec import decode, encode, wire
from mosaic.errors import MosaicError, log_failure, require_whole
from mosaic.executors.injection import GARBAGE, LOST, Fault, Injector, provoke, spoilt
from mosaic.messages import ClientState, Failed, Reply, Request
from mosaic.ranks import has_lost_a_rank, said_by_rank_0, world_size
from mosaic.training.deadline import DeadlinePassedError, ending_within
from mosaic.training.signals import is_told_to_leave

log = logging.getLogger(__name__)
Message = TypeVar("Message")

MOST_THREADS = 4096
"""More than any machine has."""


class Recipe(NamedTuple):
    """How another process makes the same worker: from the configuration, so that no data are sent."""

    config: Mapping[str, Any]
    make: Callable[[Mapping[str, Any]], Worker]  # of a module: other processes look it up by its name


@wire
@dataclass(frozen=True)
class Envelope(Generic[Message]):
    """A request with its client's state, or the reply with the state that follows.

    Attributes:
        message: request or reply.
        state: what the client keeps.
        deadline: of a request: seconds within which it must be answered.
        fault: of a request: what befalls the client on purpose.
    """

    message: Message
    state: ClientState
    deadline: float | None = None
    fault: Fault = ""


class WorkerLostError(MosaicError):
    """A process that works for clients has ended, or never connected."""

    exit_code = 1


class ClientExecutor(ABC):
    """Carries requests to workers, and keeps the states of clients."""

    recipe: Recipe | None = None  # for executors with other processes; the command line sets it
    devices = 1  # so many work at once, where every phase has one
    is_remote = False  # whether clients are on hosts of their own, and hold their images themselves
    takes_part_in_launch = False  # whether launched processes share the work, rather than each doing all of it

    def __init__(self, threads: int | None, faults: Mapping[str, float] | None = None) -> None:
        if threads is not None:
            require_whole("executor", threads=threads)
            if not 1 <= threads <= MOST_THREADS:
                raise MosaicError(f"executor.threads: expected at least 1 and at most {MOST_THREADS}, got {threads}")
        self.states, self.threads = ClientStates(), threads
        self._injector = Injector(faults)
        self._threads_before = torch.get_num_threads()
        self._worker: Worker | None = None

    @property
    def starts_processes(self) -> bool:
        """Whether it starts other processes, which make their workers by its recipe."""
        return False

    def trainer(self, trainer: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the ``trainer:`` section with which phases of this process run."""
        return trainer

    def serve(self, make_worker: Callable[[], Worker]) -> bool:
        """Answer requests until the end, where another process runs the federation; return whether that was so."""
        return False

    def note_run(self, run: str, after: int) -> None:  # noqa: B027  # simulated clients' states are in snapshots
        """Note the name of the run, and the round after which it goes on; 0 at its start."""

    def start(self, worker: Worker) -> None:
        """Get ready to answer requests."""
        self._worker = worker
        self._injector.begin()

    def present(self) -> frozenset[int] | None:
        """Return the clients that can be asked now; nothing where all of them always can."""
        return None

    @abstractmethod
    def map(self, requests: Iterable[Request], deadline: float | None = None) -> Iterator[Reply]:
        """Yield one reply for each request, in the order of the requests.

        Args:
            requests: at most one for each client.
            deadline: seconds that a client has for its answer; later, :func:`late` stands for it.
        """

    def close(self) -> None:
        """Leave nothing running, and PyTorch's number of threads as it was."""
        self._worker = None
        torch.set_num_threads(self._threads_before)

    def _answer(
        self, worker: Worker, request: Request, state: ClientState, deadline: float | None, fault: Fault
    ) -> Envelope[Reply]:
        """Answer in this process, which a crash or bytes that do not decode cost the reply and nothing else."""
        started = time.monotonic()
        if fault in LOST:
            return Envelope((vanished if fault == "crash" else unreadable)(request.client), state)
        envelope = answer(worker, request, state, deadline, fault)
        if deadline is not None and said_by_rank_0(time.monotonic() - started > deadline):
            return Envelope(late(request.client, deadline), state)
        return envelope

    def _state(self, client: int) -> ClientState:
        return self.states.get(client, ClientState({}))

    def _keep(self, client: int, state: ClientState) -> None:
        if state.tensors:
            self.states[client] = state
        elif client in self.states:
            del self.states[client]


def late(client: int, deadline: float) -> Failed:
    """Return the reply of a client that has not answered in time."""
    return Failed(client, f"no answer within {deadline:g} s")


def vanished(client: int) -> Failed:
    """Return the reply of a client whose process has ended."""
    return Failed(client, "its process ended")


def unreadable(client: int) -> Failed:
    """Return the reply of a client that has sent bytes that are no message."""
    return Failed(client, "it sent bytes that do not decode")


def failed(client: int, error: BaseException) -> Failed:
    """Return the reply of a client whose code has raised; log in its own process what nobody else may see."""
    log_failure(log, client, error)
    return Failed(client, f"{type(error).__name__} in the client's code: its log says more")


def answer(
    worker: Worker, request: Request, state: ClientState, deadline: float | None = None, fault: Fault = ""
) -> Envelope[Reply]:
    """Let a worker answer; an exception in its code becomes a reply, and its client's state stays as it was.

    The state also stays where a fault spoils the reply on purpose: a client that is asked again begins where it began.

    Where several ranks train together the exception goes on and ends this one: the others wait for it in the middle of
    a step, and would do so for half an hour.

    Args:
        worker: answers.
        request: what it is asked.
        state: of the client.
        deadline: seconds after which training stops.
        fault: what befalls the client on purpose.
    """
    try:
        with ending_within(deadline):
            provoke(fault, deadline)
            reply, new_state = worker.handle(request, state)
            told = spoilt(reply, fault)
            return Envelope(told, new_state if told is reply else state)
    except DeadlinePassedError:
        return Envelope(late(request.client, deadline or 0.0), state)
    except (Exception, SystemExit) as error:
        if is_told_to_leave(error):
            raise
        if world_size() > 1 and not fault:  # a fault on purpose befalls all ranks alike
            if not has_lost_a_rank(error):
                log.exception("client %d failed on one of several ranks, which ends all of them", request.client)
            raise
        return Envelope(failed(request.client, error), state)


def answer_bytes(worker: Worker, data: bytes) -> bytes:
    """Answer an encoded request in the process that has received it."""
    asked = decode(data, Envelope)
    if asked.fault == "garbage":
        return GARBAGE
    answered = answer(worker, asked.message, asked.state, asked.deadline, asked.fault)
    try:
        return encode(answered)
    except TypeError as error:  # the client's code may return anything
        return encode(Envelope(failed(asked.message.client, error), asked.state))
