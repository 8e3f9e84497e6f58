"""Find out which launched process this is, and which device its phases use."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.accelerators import CUDAAccelerator

from mosaic.errors import MosaicError

CONTEXT_BYTES = 2**29
"""What a process takes of a GPU before it computes anything, roughly: kernels, and the libraries' workspaces."""
_WHOLE = (
    *("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "MASTER_PORT"),
    *("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_ID"),
)
"""Variables of a launch that are whole numbers."""


@dataclass(frozen=True)
class World:
    """One process among two or more that were launched together; address and port say where they find rank 0."""

    rank: int
    size: int
    local_rank: int
    address: str
    port: int
    meeting_place: str = "own"  # rank 0 opens the port; "agent": torchrun's agent has opened it already
    launch: str = ""  # the step of a SLURM job, which other steps of the job are not
    own_gpus: int = 0  # so many GPUs SLURM shows to this process as its own; 0 where it sees all of its machine

    def device(self, processes: int = 1) -> int:
        """Return the number of the GPU on which this process trains, where so many processes share each."""
        number = self.local_rank // processes
        return number % self.own_gpus if self.own_gpus else number

    def variables(self) -> dict[str, str]:
        """Return the variables by which a new process finds out that it is this one."""
        own = {"RANK": self.rank, "WORLD_SIZE": self.size, "LOCAL_RANK": self.local_rank, "LOCAL_WORLD_SIZE": self.size}
        place = {"MASTER_ADDR": self.address, "MASTER_PORT": self.port, "TORCHELASTIC_USE_AGENT_STORE": False}
        return {name: str(value) for name, value in {**own, **place}.items()}


def launched_world() -> World | None:
    """Read what launched this process: torchrun, which may run inside SLURM, or Lightning, or else ``srun``.

    A single process is no world, and neither is an interactive SLURM job or a batch script that does not use ``srun``.

    Raises:
        MosaicError: a variable of the launch is missing, or not what it should be.
    """
    for name in _WHOLE:
        if not os.environ.get(name, "0").strip().isdecimal():
            raise MosaicError(
                f"{name}: expected a whole number in the environment, got {os.environ[name]!r}: launch with torchrun "
                "or srun, or unset it"
            )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "LOCAL_RANK" in os.environ:
        return _from_variables()
    if "SLURM_PROCID" in os.environ and SLURMEnvironment.job_name() not in ("bash", "interactive"):
        return _from_slurm()
    return None


def _from_variables() -> World:
    if missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise MosaicError(
            f"executor: expected {' and '.join(missing)} beside WORLD_SIZE and LOCAL_RANK in the environment, got "
            "nothing: launch with torchrun or srun, or unset WORLD_SIZE"
        )
    launch, node = TorchElasticEnvironment(), LightningEnvironment().node_rank()
    size, local_rank = launch.world_size(), launch.local_rank()
    if "RANK" in os.environ:
        rank = launch.global_rank()
    elif node and "LOCAL_WORLD_SIZE" not in os.environ:
        raise MosaicError(
            f"executor: expected RANK, or LOCAL_WORLD_SIZE beside NODE_RANK={node}, in the environment, got neither: "
            "launch with torchrun or srun, which set them"
        )
    else:  # Lightning sets only the number of the machine, and starts equally many processes on each
        rank = node * int(os.environ.get("LOCAL_WORLD_SIZE", size)) + local_rank
    place = "agent" if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else "own"
    return World(rank, size, local_rank, launch.main_address, launch.main_port, place)


def _from_slurm() -> World | None:
    """Read the variables of one step; Lightning's environment reads the job's alone, and refuses ``srun --ntasks``."""
    read = os.environ.get
    size = int(read("SLURM_STEP_NUM_TASKS", read("SLURM_NTASKS", "1")))
    if size < 2 or "SLURM_STEP_ID" not in os.environ:  # a batch script is in no step
        return None
    step = int(os.environ["SLURM_STEP_ID"])
    nodes = read("SLURM_STEP_NODELIST", read("SLURM_JOB_NODELIST", "127.0.0.1"))
    named = [gpu for gpu in read("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    visible = torch.cuda.device_count() or len(named)
    return World(
        rank=int(os.environ["SLURM_PROCID"]),
        size=size,
        local_rank=int(read("SLURM_LOCALID", "0")),
        address=read("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(nodes)),
        port=int(read("MASTER_PORT", 15000 + ((SLURMEnvironment.job_id() or 0) + 1009 * step) % 10000)),
        launch=f"{SLURMEnvironment.job_id()}.{step}",
        own_gpus=visible if visible == 1 or "SLURM_GPUS_PER_TASK" in os.environ else 0,
    )


def check_launch(processes: int, by_slurm: bool, executor: str, shares: bool) -> None:
    """Refuse launches in which processes would do the same work twice, or wait for others that never come.

    So many ``processes`` train each phase together, as Lightning counts them, ``by_slurm`` where it expects SLURM to
    have started them; ``executor`` is a class, which may share work out over launched processes.
    """
    world = launched_world()
    if world is not None and processes == 1 and not shares:
        raise MosaicError(
            f"executor: {world.size} processes were launched, and with {executor} and one device each of them would "
            "run the whole federation: share clients out with --executor RanksExecutor, or train every phase on all "
            "of them with SerialExecutor, --trainer.devices and --trainer.strategy ddp"
        )
    if by_slurm and processes > 1 and (world is None or world.size != processes):
        raise MosaicError(
            f"trainer.devices: expected {processes} processes started by srun, one for each device, in this SLURM job, "
            f"got {1 if world is None else world.size}: put `srun --ntasks {processes}` before the command, or set "
            f"--trainer.devices 1 --executor RanksExecutor --executor.workers {processes}"
        )


def idle_gpus(devices: int, visible: int) -> str:
    """Say how those of the visible GPUs that nobody uses can be used; nothing where there is none."""
    advice = (
        f"{visible - devices} of the {visible} GPUs that this process sees stay idle: --executor RanksExecutor "
        f"--executor.workers {visible} shares clients out over all of them"
    )
    return advice if devices < visible else ""


def check_shared_memory(workers: int, model_bytes: int, free: int) -> None:
    """Refuse more processes on a GPU than its memory can hold, before any is started.

    Each holds a CUDA context, and the largest model with its gradient, momentum and a copy. Activations and images come
    on top, so a GPU that passes can still be too small.

    Args:
        workers: processes on the GPU.
        model_bytes: of the largest model.
        free: bytes of the GPU that nobody uses.

    Raises:
        MosaicError: they do not fit.
    """
    each = CONTEXT_BYTES + 4 * model_bytes
    if workers * each > free:
        raise MosaicError(
            f"executor.workers_per_device: expected at most {max(1, free // each)}, since each process takes "
            f"{each / 2**30:.1f} GiB before it trains and {free / 2**30:.1f} GiB of the GPU are free, got {workers}: "
            "lower it"
        )


def single_device(trainer: Mapping[str, Any], device: int, executor: str) -> dict[str, Any]:
    """Return the ``trainer:`` section for phases that know nothing of other processes and use one device each.

    On GPUs that is number ``device``, unless the section names one; ``executor`` is the class to name in errors.
    """
    devices, plugins = trainer.get("devices"), trainer.get("plugins") or []
    chosen = isinstance(devices, list) and len(devices) == 1
    alone = {"devices": ("auto", 1, "1"), "num_nodes": (0, 1), "strategy": ("", "auto", "single_device")}
    for key, fitting in alone.items():
        if (asked := trainer.get(key)) not in (None, *fitting) and not (key == "devices" and chosen):
            raise MosaicError(
                f"trainer.{key}: expected one device per phase with {executor}, got {asked}: set "
                "--trainer.devices 1, or take SerialExecutor, which trains every phase data-parallel on several devices"
            )
    own = devices if chosen else [device] if uses_gpus(trainer) else 1
    environment = {"class_path": f"{LightningEnvironment.__module__}.{LightningEnvironment.__name__}"}
    plugins = [*(plugins if isinstance(plugins, list) else [plugins]), environment]
    return {**trainer, "devices": own, "strategy": "auto", "plugins": plugins}


def uses_gpus(trainer: Mapping[str, Any]) -> bool:
    """Return whether a Trainer would train on NVIDIA or AMD GPUs."""
    asked = trainer.get("accelerator", "auto")
    if isinstance(asked, Mapping):
        return issubclass(resolve_name(str(asked["class_path"])), CUDAAccelerator)
    return asked in ("gpu", "cuda", "auto", None) and torch.cuda.is_available()
