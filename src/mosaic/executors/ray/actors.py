"""The Ray actors of a run, and what replaces those that end."""

import logging
from collections.abc import Callable
from time import perf_counter
from typing import Any

from mosaic.errors import MosaicError
from mosaic.executors.base import WorkerLostError
from mosaic.training.signals import leave_if_asked

log = logging.getLogger(__name__)
SECONDS_OF_SILENCE = 30.0  # then the log says what is waited for; a worker with little data is there within ten


class ActorPool:
    """The actors, one for each worker. One that ends is replaced; another one answers until the new one has started."""

    def __init__(self, ray: Any, start: Callable[[], Any], size: int) -> None:
        self._ray, self._start = ray, start
        errors = ray.exceptions
        self._losses = (errors.RayActorError, errors.WorkerCrashedError, errors.NodeDiedError, errors.ObjectLostError)
        self._actors: list[Any] = []
        self._replacements: dict[int, tuple[Any, Any]] = {}
        self._stopped = False
        try:
            self._actors += [start() for _ in range(size)]
            self._nodes = self._wait_for_all()
        except BaseException as error:
            self.stop()
            if isinstance(error, self._losses):
                reason = str(error).strip().splitlines()[-1]
                raise MosaicError(f"executor: a Ray worker could not start: {reason}") from error
            raise

    def _wait_for_all(self) -> list[str]:
        """Wait until all actors have started, which where others use the cluster may take long; return their nodes."""
        starting = [actor.node.remote() for actor in self._actors]
        since, silent = perf_counter(), True
        while True:
            started, waiting = self._ray.wait(starting, num_returns=len(starting), timeout=1.0)
            nodes: list[str] = self._ray.get(started)  # in the actors' order; raises what has ended one
            if not waiting:
                return nodes
            leave_if_asked()
            if silent and perf_counter() - since > SECONDS_OF_SILENCE:
                silent = False
                log.warning(
                    f"{len(started)} of {len(starting)} Ray workers have started; the others load their data, or wait "
                    "for CPUs or GPUs that are taken: see ray status"
                )

    def answer(self, worker: int, request: bytes, client: int) -> bytes:
        """Let a worker answer, or if it ends meanwhile another one."""
        try:
            return self._ask(worker, request)
        except self._losses:
            if self._stopped:  # the run is over, and that is why it has ended
                raise
            other = self._replace(worker)
            log.warning("Ray worker %d ended at work for client %d: worker %d takes over", worker, client, other)
        try:
            return self._ask(other, request)
        except self._losses as error:
            raise WorkerLostError(
                f"Ray workers {worker} and {other} ended while they worked for client {client}: is there enough memory?"
            ) from error

    def _ask(self, worker: int, request: bytes) -> bytes:
        actor, node = self._replacements.get(worker, (None, None))
        has_started = actor is not None and self._ray.wait([node], timeout=0)[0]
        if has_started and self._replacements.pop(worker, None):  # one of two threads at most
            self._actors[worker], self._nodes[worker] = actor, self._ray.get(node)
        return bytes(self._ray.get(self._actors[worker].answer.remote(request)))

    def _replace(self, worker: int) -> int:
        """Start a replacement; return which worker, on another node if there is one, answers until it has started."""
        fresh = self._start()
        others = [other for other in range(len(self._actors)) if other != worker]
        elsewhere = [other for other in others if self._nodes[other] != self._nodes[worker]]
        other = (elsewhere or others or [worker])[0]
        self._actors[worker] = fresh if other == worker else self._actors[other]
        if other != worker:
            self._replacements[worker] = fresh, fresh.node.remote()
        return other

    def stop(self) -> None:
        """Stop all actors."""
        self._stopped = True
        for actor in (*self._actors, *(actor for actor, _ in self._replacements.values())):
            self._ray.kill(actor)
