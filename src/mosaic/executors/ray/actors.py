"""The Ray actors of a run, and what takes the place of those that end."""

import logging
from collections.abc import Callable
from time import perf_counter
from typing import Any

from mosaic.errors import MosaicError
from mosaic.training.signals import leave_if_asked

log = logging.getLogger(__name__)
SECONDS_OF_SILENCE = 30.0
"""After this long the user is told what is waited for; a worker with little data is there within ten."""


class WorkerLostError(MosaicError):
    """Two workers in turn ended while they worked for the same client."""

    exit_code = 1


class Crew:
    """The actors, and what takes the place of those that end.

    Args:
        ray: the module.
        hire: makes a new actor.
        size: how many there are.

    Raises:
        MosaicError: one cannot make its worker.
    """

    def __init__(self, ray: Any, hire: Callable[[], Any], size: int) -> None:
        self._ray, self._hire = ray, hire
        errors = ray.exceptions
        self._losses = (errors.RayActorError, errors.WorkerCrashedError, errors.NodeDiedError, errors.ObjectLostError)
        self._actors: list[Any] = []
        self._substitutes: dict[int, tuple[Any, Any]] = {}
        self._dismissed = False
        try:
            self._actors += [hire() for _ in range(size)]
            self._nodes = self._begin()
        except self._losses as error:
            self.dismiss()
            reason = str(error).strip().splitlines()[-1]
            raise MosaicError(f"executor: a Ray worker could not begin: {reason}") from error
        except BaseException:
            self.dismiss()
            raise

    def _begin(self) -> list[str]:
        """Wait until all actors have begun, which where others use the cluster may take long; return their nodes."""
        beginnings = [actor.node.remote() for actor in self._actors]
        started, told = perf_counter(), False
        while True:
            begun, waiting = self._ray.wait(beginnings, num_returns=len(beginnings), timeout=1.0)
            nodes: list[str] = self._ray.get(begun)  # in the actors' order; raises what has ended one
            if not waiting:
                return nodes
            leave_if_asked()
            if not told and perf_counter() - started > SECONDS_OF_SILENCE:
                told = True
                log.warning(
                    "%d of %d Ray workers have begun; the others load their data, or wait for CPUs or GPUs that are "
                    "taken: see ray status",
                    len(begun),
                    len(beginnings),
                )

    def answer(self, worker: int, errand: bytes, client: int) -> bytes:
        """Let a worker answer, or if it ends meanwhile another one.

        Raises:
            WorkerLostError: that one ends too.
        """
        try:
            return self._ask(worker, errand)
        except self._losses:
            if self._dismissed:  # the run is over, and that is why it has ended
                raise
            other = self._replace(worker)
            log.warning("Ray worker %d ended at work for client %d: worker %d takes over", worker, client, other)
        try:
            return self._ask(other, errand)
        except self._losses as error:
            raise WorkerLostError(
                f"Ray workers {worker} and {other} ended while they worked for client {client}: is there enough memory?"
            ) from error

    def _ask(self, worker: int, errand: bytes) -> bytes:
        actor, begun = self._substitutes.get(worker, (None, None))
        has_begun = actor is not None and self._ray.wait([begun], timeout=0)[0]
        if has_begun and self._substitutes.pop(worker, None):  # one of two threads at most
            self._actors[worker], self._nodes[worker] = actor, self._ray.get(begun)
        data: bytes = self._ray.get(self._actors[worker].answer.remote(errand))
        return data

    def _replace(self, worker: int) -> int:
        """Hire a substitute; return which worker, on another node if there is one, stands in until it has begun."""
        fresh = self._hire()
        others = [other for other in range(len(self._actors)) if other != worker]
        elsewhere = [other for other in others if self._nodes[other] != self._nodes[worker]]
        stand_in = (elsewhere or others or [worker])[0]
        self._actors[worker] = fresh if stand_in == worker else self._actors[stand_in]
        if stand_in != worker:
            self._substitutes[worker] = fresh, fresh.node.remote()
        return stand_in

    def dismiss(self) -> None:
        """End all actors."""
        self._dismissed = True
        for actor in (*self._actors, *(actor for actor, _ in self._substitutes.values())):
            self._ray.kill(actor)
