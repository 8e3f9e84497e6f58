"""Several workers at once: one thread for each of them, and replies in the order of the requests."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from threading import Lock, Thread

from mosaic.client.worker import Worker
from mosaic.codec import decode, encode
from mosaic.errors import MosaicError
from mosaic.executors.base import ClientExecutor, Envelope, Recipe, answer
from mosaic.executors.scheduling import Scheduler
from mosaic.messages import Reply, Request, TrainRequest
from mosaic.training.signals import leave_if_asked

_SECONDS_BETWEEN_SIGNALS = 0.5  # so long this process waits before it looks again whether a signal has come


class ParallelExecutor(ClientExecutor):
    """Has several workers, each answering one request at a time."""

    own_worker: int | None = None  # which of the workers is this process

    def __init__(self, workers: int, threads: int | None) -> None:
        super().__init__(threads)
        if workers < 1:
            raise MosaicError(f"executor.workers: expected at least 1, got {workers}")
        self.workers = self.devices = workers
        self._busy = [Lock() for _ in range(workers)]
        self._senders: dict[Thread, Scheduler] = {}

    @property
    def known_recipe(self) -> Recipe:
        """How other processes make their workers."""
        if self.recipe is None:
            raise MosaicError("executor.recipe: expected how other processes make workers, got nothing: set it")
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
        scheduler = Scheduler(requests, self.workers, self._cost)
        self._senders = {thread: of for thread, of in self._senders.items() if thread.is_alive()}
        for worker in range(self.workers):
            if worker != self.own_worker:
                thread = Thread(target=self._send_all, args=(scheduler, worker), daemon=True)
                self._senders[thread] = scheduler
                thread.start()
        try:
            while scheduler.plan():
                envelope = self._next(scheduler)
                self._keep(envelope.message.client, envelope.state)
                yield envelope.message
        finally:
            scheduler.close()

    def _next(self, scheduler: Scheduler) -> Envelope[Reply]:
        """Return the next reply in order, and answer requests here until it comes."""
        assert self._worker is not None, "start() comes before map()"
        seconds = 0.0
        try:
            while (reply := scheduler.collect(seconds)) is None:
                leave_if_asked()
                seconds = _SECONDS_BETWEEN_SIGNALS
                if self.own_worker is not None and (taken := scheduler.take(self.own_worker, wait=False)):
                    place, request = taken
                    scheduler.put(place, answer(self._worker, request, self._state(request.client)))
                    seconds = 0.0
        except Exception:
            leave_if_asked()  # a signal to all processes may have ended another one first
            raise
        return reply

    def _send_all(self, scheduler: Scheduler, worker: int) -> None:
        """Send one worker a request after the other."""
        try:
            while (taken := scheduler.take(worker)) is not None:
                place, request = taken
                data = encode(Envelope(request, self._state(request.client)))
                with self._busy[worker]:  # perhaps with a request of an earlier call of map() that nobody waits for
                    data = self._send(worker, data, request.client)
                scheduler.put(place, decode(data, Envelope))
        except Exception as error:
            scheduler.close(error)

    @abstractmethod
    def _send(self, worker: int, request: bytes, client: int) -> bytes:
        """Send an encoded request of a client to another process and wait for the reply."""

    def _join_senders(self) -> None:
        for thread, scheduler in self._senders.items():
            scheduler.close()  # the call of map() may not have been read to its end
            thread.join()

    def _cost(self, request: Request) -> float:
        """Estimate how long a request takes: by its steps, or by the client's images where these decide."""
        images = self._images[request.client]
        if not isinstance(request, TrainRequest):
            return images
        return request.epochs * images if request.epochs > 0 else request.steps
