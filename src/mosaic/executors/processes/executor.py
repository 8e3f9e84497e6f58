"""Clients on several processes: those that torchrun or srun has launched, or that this one starts on its machine."""

import hashlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from typing import Any

import torch

from mosaic import __version__
from mosaic.client.worker import Worker
from mosaic.errors import MosaicError, require_count
from mosaic.executors.agreement import agreement
from mosaic.executors.base import answer_bytes
from mosaic.executors.parallel import ParallelExecutor, WorkerEndedError
from mosaic.executors.processes.children import ChildProcesses
from mosaic.executors.processes.environment import (
    World,
    check_shared_memory,
    launched_world,
    single_device,
    uses_gpus,
)
from mosaic.executors.processes.link import accept_all, connect, listen, open_port
from mosaic.training.phases import many_phases
from mosaic.training.signals import ignore_signals, is_told_to_leave, remove_first_process_folder

_STOP = b""


class RanksExecutor(ParallelExecutor):
    """Shares clients out over processes, each with a device of its own; the first one runs the federation too.

    Within ``torchrun`` or ``srun`` all processes of the launch take part. Otherwise this process starts the others on
    its own machine and ends them when it is done. The server's phases run in the first process while the others wait.

    Args:
        workers: number of processes, this one included; not needed within torchrun or srun.
        threads: CPU threads of each process. When not given, processes that this one starts share its threads, and
            launched ones keep PyTorch's own choice. Results are bit-identical only for equal threads.
        workers_per_device: processes that share a GPU, for clients too small to fill one.
        faults: as for :class:`~mosaic.executors.SerialExecutor`; a crash kills a process that this one has started.
    """

    own_worker = 0
    takes_part_in_launch = True

    def __init__(
        self,
        workers: int | None = None,
        threads: int | None = None,
        workers_per_device: int = 1,
        faults: dict[str, float] | None = None,
    ) -> None:
        require_count("executor", workers_per_device=workers_per_device)
        self._world, self.workers_per_device = launched_world(), workers_per_device
        super().__init__(_size(workers, self._world), threads, faults)
        self.restarts = self._world is None
        self._gpu: int | None = None
        self.devices = -(-self.workers // workers_per_device)
        self._own_threads = threads or max(1, self._threads_before // (1 if self._world else self.workers))
        self._connections: dict[int, Connection] = {}
        self._children: ChildProcesses | None = None

    @property
    def starts_processes(self) -> bool:
        """Whether it starts the others; launched ones make their objects as this one does."""
        return self._world is None and self.workers > 1

    def trainer(self, trainer: Mapping[str, Any]) -> Mapping[str, Any]:
        """Give every phase the one device of this process."""
        device = self._world.device(self.workers_per_device) if self._world else 0
        adapted = single_device(trainer, device, type(self).__name__)
        self._gpu = adapted["devices"][0] if uses_gpus(trainer) else None
        available, chosen = torch.cuda.device_count(), isinstance(trainer.get("devices"), list)
        most = available * self.workers_per_device
        here = self.workers if self._world is None else 0 if self._world.own_gpus else self._world.local_rank + 1
        if uses_gpus(trainer) and not chosen and here > most:
            raise MosaicError(
                f"executor.workers: expected at most {most} on this machine, {self.workers_per_device} for each of its "
                f"{available} GPUs, got {here}: lower it, or raise --executor.workers_per_device"
            )
        return adapted

    def serve(self, make_worker: Callable[[], Worker]) -> bool:
        """Meet the other processes of a launched world; all but the first answer requests until it ends."""
        if self._world is None:
            return False
        worker = make_worker()
        if self._world.rank == 0:
            self._connections = accept_all(self._world, listen(self._world), self._run, lambda: None)
            return False
        with connect(self._world, self._run) as connection, many_phases():
            torch.set_num_threads(self._own_threads)
            ignore_signals()
            _answer_all(connection, worker, self._world.rank)
        return True

    def start(self, worker: Worker) -> None:
        """Start the other processes, unless they were launched already."""
        super().start(worker)
        torch.set_num_threads(self._own_threads)
        if self._gpu is not None and self.workers_per_device > 1:
            free, _ = torch.cuda.mem_get_info(self._gpu)
            check_shared_memory(self.workers_per_device, worker.largest_model_bytes, free)
        if self._world is None and self.workers > 1:
            self._children = ChildProcesses(self.known_recipe.config, self._own_threads)
            self._connect(range(1, self.workers))

    def _connect(self, ranks: Sequence[int]) -> None:
        """Start these ranks of this machine's world and wait until they are there."""
        assert self._children is not None
        listener = open_port()
        world = World(0, self.workers, 0, *listener.getsockname())
        with listener:
            for rank in ranks:
                self._children.start(world, rank)
            self._connections |= accept_all(world, listener, self._run, partial(self._children.check, ranks), ranks)

    @property
    def _run(self) -> str:
        """What the processes of this run have in common, and those of others do not: settings, version, launch."""
        agreed = agreement(self.recipe.config) if self.recipe else __version__  # objects have no recipe
        launch = (self._world.launch if self._world else "") or os.environ.get("TORCHELASTIC_RUN_ID", "")
        return hashlib.sha256(f"{agreed}/{launch}".encode()).hexdigest()[:16]

    def close(self) -> None:
        """End the other processes, or let launched ones end after this one; those at work are not waited for."""
        self._close_schedulers()
        idle = [worker for worker in self._connections if self._busy[worker].acquire(blocking=False)]
        for worker in idle:
            with suppress(OSError):
                self._connections[worker].send_bytes(_STOP)
            self._busy[worker].release()
        if self._children is not None:
            self._children.end(asked=len(idle) == self.workers - 1)
            self._join_senders()  # each learns at once that its process is gone
        self._connections, self._children = {}, None
        super().close()

    def _start_again(self, worker: int) -> None:
        self._connections[worker].close()
        self._connect([worker])

    def _send(self, worker: int, request: bytes) -> bytes:
        try:
            connection = self._connections[worker]  # it stays open for as long as somebody waits for it
            connection.send_bytes(request)
            return connection.recv_bytes()
        except (OSError, EOFError) as error:
            raise WorkerEndedError from error


def _size(workers: int | None, world: World | None) -> int:
    """Return how many processes take part."""
    if world is not None and workers not in (None, world.size):
        raise MosaicError(
            f"executor.workers: expected {world.size}, as many processes as were launched, got {workers}: leave it out"
        )
    size = workers if world is None else world.size
    if size is None:
        raise MosaicError(
            "executor.workers: expected a number of processes, got none, and this process was launched alone: set "
            "--executor.workers, or launch with torchrun or srun"
        )
    return size


def _answer_all(connection: Connection, worker: Worker, rank: int) -> None:
    """Answer requests of the first process until it asks to stop; end at once if it is gone."""
    requests: SimpleQueue[bytes] = SimpleQueue()

    def receive() -> None:
        request = None
        try:
            while request != _STOP:
                requests.put(request := connection.recv_bytes())
        except (OSError, EOFError):
            remove_first_process_folder()
            sys.stderr.write(f"mosaic: process {rank} ends, since the first process is gone\n")
            sys.stderr.flush()
            os._exit(1)

    Thread(target=receive, daemon=True).start()
    for request in iter(requests.get, _STOP):
        reply = None
        while reply is None:
            try:
                reply = answer_bytes(worker, request)
            except SystemExit as leaving:  # Lightning's answer to a SIGTERM, which is the first process's to decide on
                if not is_told_to_leave(leaving):
                    raise
        with suppress(OSError):  # the other thread ends this process
            connection.send_bytes(reply)
