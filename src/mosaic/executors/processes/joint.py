"""Phases in which all processes of a world train one network, data-parallel, called together by the first one."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment

from mosaic.errors import MosaicError
from mosaic.executors.processes.environment import World
from mosaic.executors.processes.link import Link
from mosaic.training.blocks import SizedBatches
from mosaic.training.phases import Company, PhaseRunner
from mosaic.training.task import Task

CALL = b"phase:"
"""How the message begins that calls a process into a phase."""


class WorldEnvironment(ClusterEnvironment):
    """Tells Lightning of processes that are there already, each as a machine with one device of its own.

    Args:
        rank: which process this is.
        size: how many there are.
    """

    def __init__(self, rank: int, size: int) -> None:
        super().__init__()
        self._rank, self._size = rank, size

    @property
    def creates_processes_externally(self) -> bool:
        """Yes: Lightning is not to start any."""
        return True

    @property
    def main_address(self) -> str:
        """Not needed, since the processes know each other."""
        return ""

    @property
    def main_port(self) -> int:
        """Not needed, as above."""
        return 0

    @staticmethod
    def detect() -> bool:
        """Never found in the environment; whoever needs it makes it."""
        return False

    def world_size(self) -> int:
        """Return how many processes there are."""
        return self._size

    def set_world_size(self, size: int) -> None:
        """Lightning may not decide."""

    def global_rank(self) -> int:
        """Return which process this is."""
        return self._rank

    def set_global_rank(self, rank: int) -> None:
        """Lightning may not decide."""

    def local_rank(self) -> int:
        """Return 0: the only device of its machine."""
        return 0

    def node_rank(self) -> int:
        """Return which machine this is: the process's own."""
        return self._rank


def calling(phases: PhaseRunner, link: Link) -> PhaseRunner:
    """Return a runner for the first process that calls the others into every phase.

    Args:
        phases: train on the device of this process.
        link: to the others, which wait for messages.
    """
    numbers = count()

    @contextmanager
    def call(task: Task, batches: SizedBatches, seed: int) -> Iterator[None]:
        number = next(numbers)
        message = CALL + _sendable((number, task, batches, seed))
        for rank in range(1, link.world.size):
            link.send(message, rank)
        with _group(number, phases, link):
            yield

    return _joint(phases, link.world, call)


def _sendable(call: tuple[int, Task, SizedBatches, int]) -> bytes:
    """Return a phase as the other processes read it.

    Raises:
        MosaicError: its batches are made on the way, by what the first process alone holds.
    """
    try:
        return pickle.dumps(call)
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        raise MosaicError(
            "executor.server_phases: all processes can only share a phase whose images are there when it begins, got "
            "one that makes them on the way (algorithm.distillation.refreshes): set that to 0, or "
            "executor.server_phases to first"
        ) from error


def answer_call(message: bytes, phases: PhaseRunner, link: Link) -> None:
    """Train with the others in the phase that the first process has called, which alone keeps what comes of it.

    Args:
        message: the call.
        phases: train on the device of this process.
        link: to the others.
    """
    number, task, batches, seed = pickle.loads(message.removeprefix(CALL))

    @contextmanager
    def called(*_: object) -> Iterator[None]:
        with _group(number, phases, link):
            yield

    _joint(phases, link.world, called).run(task, batches, seed)


@contextmanager
def _group(number: int, phases: PhaseRunner, link: Link) -> Iterator[None]:
    """Let PyTorch know of the others during one phase."""
    on_gpu = phases.device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(phases.device)
    with link.process_group(f"phase {number}", "nccl" if on_gpu else "gloo"):
        yield


def _joint(phases: PhaseRunner, world: World, company: Company) -> PhaseRunner:
    environment = {
        "class_path": f"{__name__}.{WorldEnvironment.__name__}",
        "init_args": {"rank": world.rank, "size": world.size},
    }
    return phases.in_company(company, world.size, environment)
