"""Which worker answers which request, and when: decided from the requests alone, so that every run decides alike."""

from collections.abc import Callable, Iterable
from itertools import islice
from threading import Condition

from mosaic.executors.base import Envelope
from mosaic.messages import Reply, Request


class Scheduler:
    """Assigns requests to workers, longest first, and puts the replies back into the order of the requests.

    Requests are read in blocks of two for each worker. Within a block the longest goes first, each to the worker with
    the smallest load so far. No request starts that lies two per worker or more beyond the next reply in order, so no
    more replies than that are ever held.

    One thread plans and collects; any thread takes and puts. A cost says how long a request will take, in any unit.
    """

    def __init__(self, requests: Iterable[Request], workers: int, cost: Callable[[Request], float]) -> None:
        self._requests, self._cost, self._window = iter(requests), cost, 2 * workers
        self._waiting: list[list[tuple[int, Request]]] = [[] for _ in range(workers)]
        self._loads = [0.0] * workers
        self._replies: dict[int, Envelope[Reply]] = {}
        self._planned = self._collected = 0
        self._changed = Condition()
        self._closed = False
        self._error: BaseException | None = None

    def plan(self) -> bool:
        """Assign what may start now; return whether a reply is still to come."""
        while self._planned < self._collected + self._window and (block := list(islice(self._requests, self._window))):
            costs = [self._cost(request) for request in block]
            with self._changed:
                for place in sorted(range(len(block)), key=lambda place: (-costs[place], place)):
                    worker = self._loads.index(min(self._loads))
                    self._loads[worker] += costs[place]
                    self._waiting[worker].append((self._planned + place, block[place]))
                self._planned += len(block)
                self._changed.notify_all()
        return self._collected < self._planned

    def take(self, worker: int, wait: bool = True) -> tuple[int, Request] | None:
        """Take a worker's next request and its place in the order; after waiting, nothing means the end."""
        with self._changed:
            while not self._closed:
                for index, (place, _) in enumerate(self._waiting[worker]):
                    if place < self._collected + self._window:
                        return self._waiting[worker].pop(index)
                if not wait:
                    return None
                self._changed.wait()
            return None

    def put(self, place: int, reply: Envelope[Reply]) -> None:
        """Hand in the reply to the request in this place."""
        with self._changed:
            self._replies[place] = reply
            self._changed.notify_all()

    def collect(self, seconds: float) -> Envelope[Reply] | None:
        """Return the next reply in order, or nothing if it does not come in time; raise what a worker failed with."""
        with self._changed:
            self._changed.wait_for(lambda: self._error or self._collected in self._replies, seconds)
            if self._error is not None:
                raise self._error
            reply = self._replies.pop(self._collected, None)
            if reply is not None:
                self._collected += 1
                self._changed.notify_all()
            return reply

    def close(self, error: BaseException | None = None) -> None:
        """Start nothing more, and let the collecting thread raise the error if there is one."""
        with self._changed:
            self._closed, self._error = True, self._error or error
            self._changed.notify_all()
