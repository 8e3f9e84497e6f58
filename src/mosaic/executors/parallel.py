"""Several workers at once: one thread for each of them, and replies in the order of the requests."""

import logging
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from threading import Lock, Thread

from mosaic.client.worker import Worker
from mosaic.codec import decode, encode
from mosaic.errors import MosaicError, require_count
from mosaic.executors.base import ClientExecutor, Envelope, Recipe, WorkerLostError, unreadable, vanished
from mosaic.executors.scheduling import NEVER, Answer, Scheduler
from mosaic.messages import Reply, Request, TrainRequest
from mosaic.training.signals import leave_if_asked

log = logging.getLogger(__name__)
_SECONDS_BETWEEN_SIGNALS = 0.5  # so long this process waits before it looks again whether a signal has come
_ENDS_IN_A_ROW = 3


class WorkerEndedError(Exception):
    """A worker's process has ended at work."""


class ParallelExecutor(ClientExecutor):
    """Has several workers, each answering one request at a time.

    A worker whose process ends is started again, and the client for which it worked has failed.
    """

    own_worker: int | None = None  # which of the workers is this process
    restarts = True  # whether a worker that ends can be started again

    def __init__(self, workers: int, threads: int | None, faults: Mapping[str, float] | None = None) -> None:
        super().__init__(threads, faults)
        require_count("executor", workers=workers)
        self.workers = self.devices = workers
        self._busy = [Lock() for _ in range(workers)]
        self._due = [NEVER] * workers
        self._ends = [list[int]() for _ in range(workers)]
        self._senders: dict[Thread, Scheduler] = {}

    @property
    def starts_processes(self) -> bool:
        """Whether it starts other processes, which make their workers by its recipe."""
        return True

    @property
    def known_recipe(self) -> Recipe:
        """How other processes make their workers."""
        assert self.recipe is not None, "mosaic.Federation takes no executor that needs one"
        return self.recipe

    def start(self, worker: Worker) -> None:
        """Take the worker of this process, and check that every other one will have something to do."""
        clients = len(worker.images)
        if self.workers > clients:
            raise MosaicError(
                f"executor.workers: expected at most {clients}, one for each client, got {self.workers}: "
                f"set --executor.workers {clients} or less, or launch fewer processes"
            )
        super().start(worker)
        self._images = worker.images

    def map(self, requests: Iterable[Request], deadline: float | None = None) -> Iterator[Reply]:
        """Yield one reply for each request, at most one for each client, while workers go on with those after it."""
        scheduler = Scheduler(requests, self._cost, self._due, deadline)
        self._senders = {thread: of for thread, of in self._senders.items() if thread.is_alive()}
        for worker in range(self.workers):
            if worker != self.own_worker:
                thread = Thread(target=self._send_all, args=(scheduler, worker, deadline), daemon=True)
                self._senders[thread] = scheduler
                thread.start()
        try:
            while scheduler.plan():
                request, answer = self._next(scheduler, deadline)
                if isinstance(answer, Envelope):
                    self._keep(request.client, answer.state)
                yield answer.message if isinstance(answer, Envelope) else answer
        finally:
            scheduler.close()

    def _next(self, scheduler: Scheduler, deadline: float | None) -> tuple[Request, Answer]:
        """Return the next request in order with its answer, and answer requests here until that comes."""
        assert self._worker is not None, "start() comes before map()"
        seconds = 0.0
        try:
            while (found := scheduler.collect(seconds)) is None:
                leave_if_asked()
                seconds = _SECONDS_BETWEEN_SIGNALS
                if self.own_worker is not None and (taken := scheduler.take(self.own_worker)):
                    place, request = taken
                    fault, state = self._injector.draw(request), self._state(request.client)
                    scheduler.put(place, self._answer(self._worker, request, state, deadline, fault))
                    self._due[self.own_worker] = NEVER
                    seconds = 0.0
        except Exception:
            leave_if_asked()  # a signal to all processes may have ended another one first
            raise
        return found

    def _send_all(self, scheduler: Scheduler, worker: int, deadline: float | None) -> None:
        """Send one worker a request after the other."""
        try:
            while scheduler.wait_for_work(worker):
                with self._busy[worker]:  # perhaps with a request of an earlier call of map()
                    if (taken := scheduler.take(worker)) is not None:
                        self._exchange(scheduler, worker, *taken, deadline)
                        self._due[worker] = NEVER
        except Exception as error:
            scheduler.close(error)

    def _exchange(
        self, scheduler: Scheduler, worker: int, place: int, request: Request, deadline: float | None
    ) -> None:
        """Send a worker one request and hand in the answer; start the worker again if it ends."""
        client, fault = request.client, self._injector.draw(request)
        if fault == "crash" and not self.restarts:
            scheduler.put(place, vanished(client))
            return
        data = encode(Envelope(request, self._state(client), deadline, fault))
        try:
            data = self._send(worker, data)
        except WorkerEndedError as error:
            if scheduler.closed or not self.restarts:  # or it was ended on purpose
                raise WorkerLostError(
                    f"process {worker} of {self.workers} ended while it worked for client {client}; its own message, "
                    "if it has left one, says why, and --ckpt_path auto goes on from the last snapshot"
                ) from error
            if fault != "crash":
                self._count_end(worker, client, error)
            log.warning("worker %d ended while it worked for client %d, and is started again", worker, client)
            scheduler.put(place, vanished(client))
            scheduler.give_way(worker)
            self._start_again(worker)
            return
        self._ends[worker].clear()
        try:
            scheduler.put(place, decode(data, Envelope))
        except ValueError:
            scheduler.put(place, unreadable(client))

    def _count_end(self, worker: int, client: int, error: WorkerEndedError) -> None:
        """Give up a worker that ends for one client after the other."""
        ends = self._ends[worker]
        if ends[-1:] != [client]:  # one that ends it whenever it is asked is no fault of the worker's
            ends.append(client)
        if len(ends) == _ENDS_IN_A_ROW:
            raise WorkerLostError(
                f"worker {worker} ended while it worked for client {ends[0]}, and again for {ends[1]} and {ends[2]}, "
                "without an answer in between: is there enough memory? --ckpt_path auto goes on from the last snapshot"
            ) from error

    @abstractmethod
    def _send(self, worker: int, request: bytes) -> bytes:
        """Send an encoded request to another process and wait for the reply.

        Raises:
            WorkerEndedError: the process has ended.
        """

    @abstractmethod
    def _start_again(self, worker: int) -> None:
        """Start a worker that has ended, and wait until it is ready.

        Raises:
            MosaicError: that cannot be done.
        """

    def _close_schedulers(self) -> None:
        for scheduler in self._senders.values():
            scheduler.close()  # the call of map() may not have been read to its end

    def _join_senders(self, seconds: float | None = None) -> None:
        self._close_schedulers()
        for thread in self._senders:
            thread.join(seconds)

    def _cost(self, request: Request) -> float:
        """Estimate how long a request takes: by its steps, or by the client's images where these decide."""
        images = self._images[request.client]
        if not isinstance(request, TrainRequest):
            return images
        return request.epochs * images if request.epochs > 0 else request.steps
