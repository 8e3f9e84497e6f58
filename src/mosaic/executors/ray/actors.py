"""The Ray actors of a run; one that ends is started again."""

import logging
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter
from typing import Any

from mosaic.errors import MosaicError
from mosaic.executors.base import WorkerLostError
from mosaic.executors.parallel import WorkerEndedError
from mosaic.training.signals import leave_if_asked

log = logging.getLogger(__name__)
_STARTS = 3
SECONDS_OF_SILENCE = 30.0  # then the log says what is waited for; a worker with little data is there within ten


class ActorPool:
    """The actors, one for each worker."""

    def __init__(self, ray: Any, start: Callable[[], Any], size: int) -> None:
        self._ray, self._start = ray, start
        errors = ray.exceptions
        self._losses = (
            *(errors.RayActorError, errors.WorkerCrashedError, errors.NodeDiedError, errors.ObjectLostError),
            errors.OutOfMemoryError,  # what Ray's monitor of memory ends an actor with
        )
        self._actors: list[Any] = []
        self._stopped = False
        try:
            self._actors += [start() for _ in range(size)]
            self._wait_for_all()
        except BaseException as error:
            self.stop()
            if isinstance(error, self._losses):
                reason = str(error).strip().splitlines()[-1]
                raise MosaicError(f"executor: a Ray worker could not start: {reason}") from error
            raise

    def _wait_for_all(self) -> None:
        """Wait until all actors have started, which may take long where others use the cluster."""
        starting = [actor.ready.remote() for actor in self._actors]
        since, silent = perf_counter(), True
        while True:
            started, waiting = self._ray.wait(starting, num_returns=len(starting), timeout=1.0)
            self._ray.get(started)  # raises what has ended one
            if not waiting:
                return
            leave_if_asked()
            if silent and perf_counter() - since > SECONDS_OF_SILENCE:
                silent = False
                log.warning(
                    f"{len(started)} of {len(starting)} Ray workers have started; the others load their data, or wait "
                    "for CPUs or GPUs that are taken: see ray status"
                )

    def answer(self, worker: int, request: bytes) -> bytes:
        """Let a worker answer.

        Raises:
            WorkerEndedError: it has ended.
        """
        try:
            return bytes(self._ray.get(self._actors[worker].answer.remote(request)))
        except self._losses as error:
            raise WorkerEndedError from error

    def start_again(self, worker: int) -> None:
        """Start a worker that has ended, and wait until it is there.

        Raises:
            WorkerLostError: it does not start.
        """
        for _ in range(_STARTS):
            self._actors[worker] = self._start()
            ready = self._actors[worker].ready.remote()
            while not self._ray.wait([ready], timeout=1.0)[0]:
                if self._stopped:
                    return
            with suppress(*self._losses):
                self._ray.get(ready)
                return
        raise WorkerLostError(f"Ray worker {worker} has ended, and does not start again: is there enough memory?")

    def stop(self) -> None:
        """Stop all actors; none is started again."""
        self._stopped = True
        for actor in self._actors:
            self._ray.kill(actor)
