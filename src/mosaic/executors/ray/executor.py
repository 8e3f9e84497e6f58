"""Workers that Ray keeps on this machine or on a cluster. The only module that imports ray, and only when it starts."""

import logging
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

import torch

from mosaic.client.worker import Worker
from mosaic.errors import MosaicError, require_at_least_zero
from mosaic.executors.base import answer_bytes
from mosaic.executors.parallel import ParallelExecutor
from mosaic.executors.processes.environment import single_device, uses_gpus
from mosaic.executors.ray.actors import ActorPool
from mosaic.training.phases import many_phases
from mosaic.training.signals import keeping_handlers

_SECONDS_TO_END = 10.0  # threads that wait for Ray must not outlive it, and Ray may fail to tell them of an actor's end
_ONLY_HERE = {  # keeps a Ray of our own from the network; it must be set before ray is imported
    # makes Ray listen on 127.0.0.1 alone, as it does on macOS and Windows: https://github.com/ray-project/ray/issues/18730
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


class RayExecutor(ParallelExecutor):
    """Shares clients out over long-lived Ray actors; server phases run in this process.

    Every actor makes its own worker from the configuration, so the data must be readable where it runs. An actor that
    ends is started again; the client for which it worked has failed.

    Args:
        workers: number of actors.
        threads: CPU threads and reserved CPUs of each actor, and threads of this process; when not given, actors have
            one and this process PyTorch's own choice. Results are bit-identical only for equal threads.
        gpus_per_worker: share of a GPU that each actor reserves; 0.25 lets four share one.
        address: of a running Ray cluster, such as ``auto`` or ``10.0.0.1:6379``; when not given, a Ray is started on
            this machine for the time of the run.
        faults: as for :class:`~mosaic.executors.SerialExecutor`; a crash kills an actor.
    """

    def __init__(
        self,
        workers: int,
        threads: int | None = None,
        gpus_per_worker: float = 0.0,
        address: str | None = None,
        faults: dict[str, float] | None = None,
    ) -> None:
        super().__init__(workers, threads, faults)
        require_at_least_zero("executor", gpus_per_worker=gpus_per_worker)
        self.gpus_per_worker, self.address, self._cpus = gpus_per_worker, address, threads or 1
        self._where = "this machine" if address is None else f"the Ray cluster {address}"
        self._ray: Any = None
        self._pool: ActorPool | None = None
        self._connected = False

    def trainer(self, trainer: Mapping[str, Any]) -> Mapping[str, Any]:
        """Give every phase one device: the first of those that Ray shows to its actor."""
        if uses_gpus(trainer) and self.gpus_per_worker == 0:
            raise MosaicError(
                "executor.gpus_per_worker: expected a share of a GPU, because trainer.accelerator asks for GPUs, got "
                "0: set it, or set --trainer.accelerator cpu"
            )
        return single_device(trainer, 0, type(self).__name__)

    def start(self, worker: Worker) -> None:
        """Connect to Ray and wait until every actor has made its worker."""
        super().start(worker)
        make, config, cpus = self.known_recipe.make, dict(self.known_recipe.config), self._cpus
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        self._ray = _import_ray(local=self.address is None)
        self._connect()
        self._check_resources()
        actor = self._ray.remote(num_cpus=cpus, num_gpus=self.gpus_per_worker)(_Actor)
        self._pool = ActorPool(self._ray, lambda: actor.remote(make, config, cpus), self.workers)

    def close(self) -> None:
        """End the actors, and Ray if it was started here."""
        self._close_schedulers()
        if self._pool is not None:
            self._pool.stop()
            self._join_senders(_SECONDS_TO_END)
        if self._connected:
            self._ray.shutdown()
        self._pool, self._connected = None, False
        super().close()

    def _connect(self) -> None:
        if self._ray.is_initialized():
            return
        settings: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        if self.address is None:
            settings |= {"num_cpus": self.workers * self._cpus, "include_dashboard": False}
        else:
            _check_reachable(self.address)
        try:
            with keeping_handlers():
                self._ray.init(address=self.address or "local", **settings)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise MosaicError(
                f"executor.address: expected {self._where} to let this process in, got: {error}: if its nodes run "
                "with RAY_AUTH_MODE=token, set that and the same token here"
            ) from error
        self._connected = True

    def _check_resources(self) -> None:
        """Refuse actors that would wait for ever."""
        shares = {"CPU": ("threads", self._cpus), "GPU": ("gpus_per_worker", self.gpus_per_worker)}
        for name, (key, share) in shares.items():
            there = self._ray.cluster_resources().get(name, 0)
            if self.workers * share > there:
                raise MosaicError(
                    f"executor.workers: expected at most {int(there / share)}, since {self._where} has {there:g} "
                    f"{name}s and each worker takes {share:g}, got {self.workers}: lower it, or executor.{key}"
                )

    def _send(self, worker: int, request: bytes) -> bytes:
        assert self._pool is not None, "start() comes before map()"
        return self._pool.answer(worker, request)

    def _start_again(self, worker: int) -> None:
        assert self._pool is not None, "start() comes before map()"
        self._pool.start_again(worker)


class _Actor:
    """Holds a worker in a process of Ray's."""

    def __init__(self, make: Callable[[Mapping[str, Any]], Worker], config: Mapping[str, Any], threads: int) -> None:
        logging.getLogger("mosaic").setLevel(logging.ERROR)
        torch.set_num_threads(threads)
        self._worker = make(config)
        self._phases = many_phases()  # until the process ends
        self._phases.__enter__()

    def ready(self) -> None:
        """Return once the worker is there."""

    def answer(self, request: bytes) -> bytes:
        """Answer an encoded request."""
        return answer_bytes(self._worker, request)


def _import_ray(local: bool) -> Any:
    """Import ray, for a Ray of our own in such a way that nothing outside this machine can reach it."""
    if local:
        os.environ.update({key: value for key, value in _ONLY_HERE.items() if key not in os.environ})
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MosaicError("executor: RayExecutor needs ray, got no such module: pip install ray") from error
    return ray


def _check_reachable(address: str) -> None:
    """Refuse the address of a head that is gone: Ray itself would try for minutes and then end the process."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if host and port.isdigit():
            socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise MosaicError(
            f"executor.address: expected the head of a Ray cluster at {address}, got nothing that answers "
            f"({error.strerror or error}): start it with ray start --head, or leave the address out to use this machine"
        ) from error
