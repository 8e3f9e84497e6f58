"""Decide which worker answers which request and when, from the requests alone, so that every run decides alike.

Only where a worker is late, or its process starts again, others take what was meant for it.
"""

import time
from collections.abc import Callable, Iterable
from itertools import islice
from threading import Condition

from mosaic.executors.base import Envelope, late
from mosaic.messages import Failed, Reply, Request

Answer = Envelope[Reply] | Failed
NEVER = float("inf")
_AWAY = -NEVER
"""When a worker is late that starts again: others take over at once, and what nobody has begun waits for it."""


class Scheduler:
    """Assigns requests to workers, longest first, and puts the replies back into the order of the requests.

    Requests are read in blocks of two for each worker. Within a block the longest goes first, each to the worker with
    the smallest load so far. No request starts that lies two per worker or more beyond the next reply in order, so no
    more replies than that are ever held.

    One thread plans and collects; any thread takes and puts.

    Args:
        requests: at most one for each client.
        cost: says how long a request will take, in any unit.
        due: when each worker's present request is late, which schedulers of the same workers share; ``NEVER`` for one
            that is idle. Others take over from a worker whose time has come.
        deadline: seconds that a request may take from its start.
        clock: tells seconds.
    """

    def __init__(
        self,
        requests: Iterable[Request],
        cost: Callable[[Request], float],
        due: list[float],
        deadline: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._requests, self._cost, self._window = iter(requests), cost, 2 * len(due)
        self._due, self._deadline, self._clock = due, NEVER if deadline is None else deadline, clock
        self._waiting: list[list[tuple[int, Request]]] = [[] for _ in due]
        self._loads = [0.0] * len(due)
        self._uncollected: dict[int, Request] = {}
        self._started: dict[int, float] = {}
        self._answers: dict[int, Answer] = {}
        self._planned = self._collected = 0
        self._changed = Condition()
        self._closed = False
        self._error: BaseException | None = None

    def plan(self) -> bool:
        """Assign what may start now; return whether a reply is still to come."""
        while self._planned < self._collected + self._window and (block := list(islice(self._requests, self._window))):
            costs = [self._cost(request) for request in block]
            with self._changed:
                self._uncollected |= enumerate(block, start=self._planned)
                for place in sorted(range(len(block)), key=lambda place: (-costs[place], place)):
                    worker = self._loads.index(min(self._loads))
                    self._loads[worker] += costs[place]
                    self._waiting[worker].append((self._planned + place, block[place]))
                self._planned += len(block)
                self._changed.notify_all()
        return self._collected < self._planned

    def wait_for_work(self, worker: int) -> bool:
        """Wait until there is something for a worker to take; return whether there is, or the end has come."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._next(worker) is not None)
            return not self._closed

    def take(self, worker: int) -> tuple[int, Request] | None:
        """Start a worker's next request, if there is one; return its place in the order too."""
        with self._changed:
            if self._closed or (found := self._next(worker)) is None:
                return None
            owner, index = found
            place, request = self._waiting[owner].pop(index)
            self._started[place] = self._clock()
            self._due[worker] = self._started[place] + self._deadline
            return place, request

    def _next(self, worker: int) -> tuple[int, int] | None:
        """Find a request that may start: the worker's own, else that of one who is late; return owner and index."""
        now = self._clock()
        overdue = (other for other, due in enumerate(self._due) if due <= now and other != worker)
        for owner in (worker, *overdue):
            for index, (place, _) in enumerate(self._waiting[owner]):
                if place < self._collected + self._window:
                    return owner, index
        return None

    def put(self, place: int, answer: Answer) -> None:
        """Hand in the answer to the request in this place; one that comes too late is dropped."""
        with self._changed:
            if place in self._uncollected and self._clock() <= self._due_at(place):
                self._answers[place] = answer
            self._changed.notify_all()

    def collect(self, seconds: float) -> tuple[Request, Answer] | None:
        """Return the next request in order and its answer, or nothing if that does not come within these seconds.

        Raises:
            BaseException: what a worker has failed with.
        """
        with self._changed:
            place = self._collected
            patience = max(0.0, min(seconds, self._due_at(place) - self._clock()))
            self._changed.wait_for(lambda: self._error or place in self._answers, patience)
            if self._error is not None:
                raise self._error
            answer = self._answers.pop(place, None)
            if answer is None and self._clock() >= self._due_at(place):
                answer = late(self._uncollected[place].client, self._deadline)
                self._waiting = [[each for each in own if each[0] != place] for own in self._waiting]
            if answer is not None:
                self._collected += 1
                self._started.pop(place, None)
            self._changed.notify_all()  # the window has moved, or a worker is late by now
            return None if answer is None else (self._uncollected.pop(place), answer)

    def _due_at(self, place: int) -> float:
        """Return when a request is late: from its start, or from when all workers were late."""
        latest = NEVER if _AWAY in self._due else max(self._due)
        return self._started.get(place, latest) + self._deadline

    def give_way(self, worker: int) -> None:
        """Let others take what is meant for a worker, until its entry in ``due`` says that it is there again."""
        with self._changed:
            self._due[worker] = _AWAY
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """Whether nothing starts any more."""
        return self._closed

    def close(self, error: BaseException | None = None) -> None:
        """Start nothing more, and let the collecting thread raise the error if there is one."""
        with self._changed:
            self._closed, self._error = True, self._error or error
            self._changed.notify_all()
