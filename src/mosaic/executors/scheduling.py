"""Who answers which request, and when: decided from the requests alone, so that every run decides alike."""

from collections.abc import Callable, Iterable
from itertools import islice
from threading import Condition
from typing import NamedTuple

from mosaic.messages import ClientState, Reply, Request


class Answer(NamedTuple):
    """A reply, and what its client remembers from now on."""

    reply: Reply
    state: ClientState


class Sharing:
    """Deals requests out to workers, longest first, and puts the answers back into the order of the requests.

    Requests are taken in blocks of two for each worker. Within a block the longest goes first, each to the worker who
    has been given least so far. No request is begun that lies two per worker or more beyond the next answer in order,
    so no more answers than that are ever held.

    One thread makes plans and collects; any thread takes and puts.

    Args:
        requests: what is asked, read as late as possible.
        workers: how many answer.
        cost: how long a request will take, in any unit.
    """

    def __init__(self, requests: Iterable[Request], workers: int, cost: Callable[[Request], float]) -> None:
        self._requests, self._cost, self._window = iter(requests), cost, 2 * workers
        self._waiting: list[list[tuple[int, Request]]] = [[] for _ in range(workers)]
        self._loads = [0.0] * workers
        self._answers: dict[int, Answer] = {}
        self._planned = self._collected = 0
        self._changed = Condition()
        self._closed = False
        self._error: BaseException | None = None

    def plan(self) -> bool:
        """Deal out what may be begun now; return whether an answer is still to come."""
        while self._planned < self._collected + self._window:
            block = list(islice(self._requests, self._window))
            if not block:
                break
            with self._changed:
                self._deal(block)
                self._changed.notify_all()
        return self._collected < self._planned

    def _deal(self, block: list[Request]) -> None:
        costs = [self._cost(request) for request in block]
        for place in sorted(range(len(block)), key=lambda place: (-costs[place], place)):
            worker = self._loads.index(min(self._loads))
            self._loads[worker] += costs[place]
            self._waiting[worker].append((self._planned + place, block[place]))
        self._planned += len(block)

    def take(self, worker: int, wait: bool = True) -> tuple[int, Request] | None:
        """Take the next request of a worker with its place in the order.

        Args:
            worker: who asks.
            wait: until there is one; nothing comes back only after the end then.
        """
        with self._changed:
            while not self._closed:
                for index, (place, _) in enumerate(self._waiting[worker]):
                    if place < self._collected + self._window:
                        return self._waiting[worker].pop(index)
                if not wait:
                    return None
                self._changed.wait()
            return None

    def put(self, place: int, answer: Answer) -> None:
        """Hand in the answer to the request in this place."""
        with self._changed:
            self._answers[place] = answer
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Let the collecting thread raise this."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def collect(self, seconds: float) -> Answer | None:
        """Return the next answer in order, or nothing if it does not come within so many seconds.

        Raises:
            BaseException: what a worker failed with.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._error or self._collected in self._answers, seconds)
            if self._error is not None:
                raise self._error
            answer = self._answers.pop(self._collected, None)
            if answer is not None:
                self._collected += 1
                self._changed.notify_all()
            return answer

    def close(self) -> None:
        """Begin nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
