"""What every executor has: a worker, the clients' memories, and replies in the order of the requests."""

import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

from mosaic.client.worker import Worker
from mosaic.messages import ClientState, Failed, Reply, Request


class ClientExecutor(ABC):
    """Carries requests to workers.

    Attributes:
        states: what clients remember, by client; clients that remember nothing are absent.
    """

    def __init__(self) -> None:
        self.states: dict[int, ClientState] = {}

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
        """Let a worker answer, keep what the client remembers, and turn an exception into a reply."""
        try:
            reply, state = worker.handle(request, self.states.get(request.client, ClientState({})))
        except Exception:  # the cohort shows the traceback under the client's number
            return Failed(request.client, traceback.format_exc())
        self.states.pop(request.client, None)
        if state.tensors:
            self.states[request.client] = state
        return reply
