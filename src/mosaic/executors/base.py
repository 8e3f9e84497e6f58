"""What every executor has: a worker, the clients' memories, and replies in the order of the requests."""

import logging
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mosaic.batches import world_size
from mosaic.client.worker import Worker
from mosaic.errors import MosaicError
from mosaic.executors.client_states import ClientStates
from mosaic.messages import ClientState, Failed, Reply, Request
from mosaic.training.signals import is_told_to_leave

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """How to make the same worker in another process: from the configuration, so that no data are sent.

    Attributes:
        config: the parsed configuration as plain values.
        make: makes the worker; a function of a module, since other processes look it up by its name.
    """

    config: Mapping[str, Any]
    make: Callable[[Mapping[str, Any]], Worker]


class ClientExecutor(ABC):
    """Carries requests to workers.

    Attributes:
        states: what clients remember, by client; clients that remember nothing are absent.
        recipe: for executors with other processes; the command line sets it.
    """

    recipe: Recipe | None = None
    takes_part_in_launch = False
    """Whether several launched processes share the work, rather than each doing all of it."""

    @property
    def devices(self) -> int:
        """How many devices are at work at once, where every phase has one."""
        return 1

    def __init__(self) -> None:
        self.states = ClientStates()

    @property
    def known_recipe(self) -> Recipe:
        """The recipe.

        Raises:
            MosaicError: nobody has set it.
        """
        if self.recipe is None:
            raise MosaicError(
                f"{type(self).__name__}.recipe: expected how other processes make their workers, got nothing: run "
                "`mosaic fit`, which sets it, or set it yourself"
            )
        return self.recipe

    def trainer(self, trainer: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the ``trainer:`` section with which phases of this process run."""
        return trainer

    def serve(self, make_worker: Callable[[], Worker]) -> bool:
        """Answer requests until the end, where another process runs the federation; return whether that was so."""
        return False

    @abstractmethod
    def start(self, worker: Worker) -> None:
        """Make ready to answer requests."""

    @abstractmethod
    def map(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Yield one reply for each request, in the order of the requests."""

    @abstractmethod
    def close(self) -> None:
        """Leave nothing running."""

    def _handle(self, worker: Worker, request: Request) -> Reply:
        """Let a worker of this process answer, and keep what the client remembers."""
        before = self._state(request.client)
        reply, state = answer(worker, request, before)
        if state is not before:
            self._keep(reply, state)
        return reply

    def _state(self, client: int) -> ClientState:
        return self.states.get(client, ClientState({}))

    def _keep(self, reply: Reply, state: ClientState) -> None:
        """Keep what a client remembers."""
        if state.tensors:
            self.states[reply.client] = state
        elif reply.client in self.states:
            del self.states[reply.client]


def answer(worker: Worker, request: Request, state: ClientState) -> tuple[Reply, ClientState]:
    """Let a worker answer, and turn what its code raises into a reply; the client then remembers what it did before.

    Where several ranks train together the exception goes on and ends this one: the others wait for it in the middle of
    a step, and would do so for half an hour.
    """
    try:
        return worker.handle(request, state)
    except (Exception, SystemExit) as error:  # the cohort shows the traceback under the client's number
        if is_told_to_leave(error):
            raise
        if world_size() > 1:
            log.exception("client %d failed on one of several ranks, which ends all of them", request.client)
            raise
        return Failed(request.client, traceback.format_exc()), state


def check_threads(threads: int | None) -> None:
    """Refuse a number of threads with which nothing can be computed.

    Raises:
        MosaicError: it is less than one.
    """
    if threads is not None and threads < 1:
        raise MosaicError(f"executor.threads: expected at least 1, got {threads}")
