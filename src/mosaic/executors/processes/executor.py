"""The world that torchrun or srun has launched, or that this process launches on its own machine."""

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any

import torch

from mosaic.client.worker import Worker
from mosaic.errors import MosaicError
from mosaic.executors.envelope import run_errand
from mosaic.executors.parallel import ParallelExecutor
from mosaic.executors.processes.children import Companions
from mosaic.executors.processes.environment import World, launched_world, single_device, uses_gpus
from mosaic.executors.processes.link import Link, LinkBrokenError, make_store, open_port
from mosaic.training.phases import many_phases
from mosaic.training.signals import clear_after_the_first, ignore_signals

_STOP = b"stop"


class RanksExecutor(ParallelExecutor):
    """Shares clients out over processes, each with a device of its own; the first one runs the federation too.

    Within ``torchrun`` or ``srun`` all processes of the launch take part. Otherwise this process starts
    ``workers - 1`` others on its own machine and ends them when it is done. Every phase of a client runs on one device.
    Phases of the server run in the first process while the others wait.

    Args:
        workers: number of processes, this one included; not needed within torchrun or srun.
        threads: CPU threads of each process. When not given, processes that this one starts share its threads, and
            launched ones keep PyTorch's own choice. Results are bit-identical only for equal threads.
    """

    own_worker = 0
    takes_part_in_launch = True

    def __init__(self, workers: int | None = None, threads: int | None = None) -> None:
        self._world = launched_world()
        super().__init__(_size(workers, self._world), threads)
        self._threads_before = torch.get_num_threads()
        self._link: Link | None = None
        self._companions: Companions | None = None

    def trainer(self, trainer: Mapping[str, Any]) -> Mapping[str, Any]:
        """Give every phase the one device of this process."""
        adapted = single_device(trainer, 0 if self._world is None else self._world.device, type(self).__name__)
        available, shared = torch.cuda.device_count(), isinstance(trainer.get("devices"), list)
        if self._world is None and uses_gpus(trainer) and not shared and self.workers > available:
            raise MosaicError(
                f"executor.workers: expected at most {available}, one for each GPU of this machine, got "
                f"{self.workers}: lower it, or let them share a GPU with --trainer.devices [0]"
            )
        return adapted

    def serve(self, make_worker: Callable[[], Worker]) -> bool:
        """Meet the other processes of a launched world; all but the first answer requests until it ends."""
        if self._world is None:
            return False
        worker = make_worker()
        link = Link(self._world, make_store(self._world))
        if self._world.rank == 0:
            self._link = link
            return False
        self._set_threads()
        ignore_signals()
        with many_phases():
            _answer_all(link, worker)
        return True

    def start(self, worker: Worker) -> None:
        """Start the other processes, unless they were launched already."""
        super().start(worker)
        self._set_threads()
        if self._link is None and self.workers > 1:
            self._launch()

    def _launch(self) -> None:
        config = self.known_recipe.config
        listener = open_port()
        world = World(0, self.workers, 0, *listener.getsockname())
        store = make_store(world, listener)
        self._companions = Companions(world, config, torch.get_num_threads())
        self._link = Link(world, store, self._companions.check)

    def close(self) -> None:
        """End the other processes; those that are at work are not waited for."""
        told = self._link is not None and self._tell_all(self._link)
        if self._companions is not None:
            self._companions.end(told)
            for thread in self._attending:  # each learns at once that its process is gone; a process that ends while
                thread.join()  # one of its threads comes out of C++ is aborted
        self._link = self._companions = self._worker = None
        torch.set_num_threads(self._threads_before)

    def _set_threads(self) -> None:
        alone = self._world is None
        torch.set_num_threads(self.threads or max(1, self._threads_before // (self.workers if alone else 1)))

    def _tell_all(self, link: Link) -> bool:
        """Tell every idle process that it is over; return whether all were idle."""
        idle = [worker for worker in range(1, self.workers) if self._busy[worker].acquire(blocking=False)]
        for worker in idle:
            with suppress(LinkBrokenError):
                link.send(_STOP, worker)
            self._busy[worker].release()
        return len(idle) == self.workers - 1

    def _send(self, worker: int, errand: bytes, client: int) -> bytes:
        assert self._link is not None, "start() comes before map()"
        with self._busy[worker]:
            try:
                self._link.send(errand, worker)
                return self._link.receive(worker)
            except LinkBrokenError as error:
                raise LinkBrokenError(
                    f"process {worker} of {self.workers} ended while it worked for client {client}; its own message, "
                    "if it has left one, says why, and --ckpt_path auto goes on from the last snapshot"
                ) from error


def _size(workers: int | None, world: World | None) -> int:
    """Return how many processes take part.

    Raises:
        MosaicError: nobody says, or two say different things.
    """
    if world is not None and workers not in (None, world.size):
        raise MosaicError(
            f"executor.workers: expected {world.size}, as many processes as were launched, got {workers}: leave it out"
        )
    if world is not None:
        return world.size
    if workers is None:
        raise MosaicError(
            "executor.workers: expected a number of processes, got none, and this process was launched alone: set "
            "--executor.workers, or launch with torchrun or srun"
        )
    return workers


def _answer_all(link: Link, worker: Worker) -> None:
    """Answer requests of the first process until it says that it is over; leave at once if it is gone."""
    messages: SimpleQueue[bytes] = SimpleQueue()

    def listen() -> None:
        data = b""
        try:
            while data != _STOP:
                messages.put(data := link.receive(0))
        except LinkBrokenError:
            _leave(link.world.rank)

    Thread(target=listen, daemon=True).start()
    while (message := messages.get()) != _STOP:
        link.send(_answer(worker, message), 0)


def _answer(worker: Worker, errand: bytes) -> bytes:
    """Run an errand, and once more if Lightning leaves it on a SIGTERM: the first process decides what that means."""
    try:
        return run_errand(worker, errand)
    except SystemExit:
        return run_errand(worker, errand)


def _leave(rank: int) -> None:
    """End this process from a thread; it has nothing of its own to tidy up."""
    clear_after_the_first()
    sys.stderr.write(f"mosaic: process {rank} ends, since the first process is gone\n")
    sys.stderr.flush()
    os._exit(1)
