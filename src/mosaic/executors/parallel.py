"""What executors with several workers share: who does what, threads that wait for them, and order at the end."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from threading import Lock, Thread

from mosaic.client.worker import Worker
from mosaic.codec import encode
from mosaic.errors import MosaicError
from mosaic.executors.base import ClientExecutor, answer, check_threads
from mosaic.executors.envelope import Errand, unpack
from mosaic.executors.scheduling import Answer, Sharing
from mosaic.messages import Reply, Request, TrainRequest
from mosaic.training.signals import leave_if_asked

_SECONDS_BETWEEN_SIGNALS = 0.5
"""How long this process waits before it looks again whether it is asked to leave."""


class ParallelExecutor(ClientExecutor):
    """Has several workers, each answering one request at a time.

    Attributes:
        workers: how many there are.
        threads: CPU threads of each; PyTorch's own choice when not given.
    """

    own_worker: int | None = None
    """Which of the workers is this process."""

    def __init__(self, workers: int, threads: int | None) -> None:
        super().__init__()
        check_threads(threads)
        if workers < 1:
            raise MosaicError(f"executor.workers: expected at least 1, got {workers}")
        self.workers, self.threads = workers, threads
        self._worker: Worker | None = None
        self._busy = [Lock() for _ in range(workers)]
        self._attending: list[Thread] = []

    @property
    def devices(self) -> int:
        """As many as there are workers."""
        return self.workers

    def start(self, worker: Worker) -> None:
        """Take the worker of this process, and check that every other one will have something to do."""
        clients = len(worker.images)
        if self.workers > clients:
            raise MosaicError(
                f"executor.workers: expected at most {clients}, one for each client, got {self.workers}: "
                f"set --executor.workers {clients} or less, or launch fewer processes"
            )
        self._worker = worker

    def map(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Yield one reply for each request, in order, while workers go on with those after it.

        Args:
            requests: at most one for each client, since what a client remembers is kept when its reply is yielded.
        """
        assert self._worker is not None, "start() comes before map()"
        sharing = Sharing(requests, self.workers, self._cost)
        self._attending = [thread for thread in self._attending if thread.is_alive()]
        for worker in range(self.workers):
            if worker != self.own_worker:
                self._attending.append(Thread(target=self._attend, args=(sharing, worker), daemon=True))
                self._attending[-1].start()
        try:
            while sharing.plan():
                reply, state = self._next(sharing)
                self._keep(reply, state)
                yield reply
        finally:
            sharing.close()

    def _next(self, sharing: Sharing) -> Answer:
        """Return the next answer in order, and work here until it comes."""
        seconds = 0.0
        try:
            while (ready := sharing.collect(seconds)) is None:
                leave_if_asked()
                seconds = 0.0 if self._work(sharing) else _SECONDS_BETWEEN_SIGNALS
        except Exception:
            leave_if_asked()  # a signal to all processes may have ended another one first
            raise
        return ready

    def _work(self, sharing: Sharing) -> bool:
        """Answer one request in this process; return whether there was one for it."""
        taken = None if self.own_worker is None else sharing.take(self.own_worker, wait=False)
        if taken is None:
            return False
        place, request = taken
        assert self._worker is not None
        sharing.put(place, Answer(*answer(self._worker, request, self._state(request.client))))
        return True

    def _attend(self, sharing: Sharing, worker: int) -> None:
        """Give one worker a request after the other."""
        try:
            while (taken := sharing.take(worker)) is not None:
                place, request = taken
                errand = encode(Errand(request, self._state(request.client)))
                sharing.put(place, unpack(self._send(worker, errand, request.client)))
        except Exception as error:
            sharing.fail(error)

    @abstractmethod
    def _send(self, worker: int, errand: bytes, client: int) -> bytes:
        """Send an encoded errand of a client to another process and wait for what comes back."""

    def _cost(self, request: Request) -> float:
        """Judge how long a request takes: by its steps, or by the client's images where these decide."""
        assert self._worker is not None
        images = self._worker.images[request.client]
        match request:
            case TrainRequest(epochs=epochs, steps=steps):
                return epochs * images if epochs > 0 else steps
            case _:
                return images
