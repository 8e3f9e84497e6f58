"""Which of how many launched processes this is: the variables of torchrun, Lightning and SLURM, read in one place."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

from mosaic.errors import MosaicError

_INTERACTIVE = ("bash", "interactive")
"""Names that SLURM gives to jobs in which somebody types commands, which are no tasks of one world."""
_ENVIRONMENT = "lightning.fabric.plugins.environments.LightningEnvironment"


@dataclass(frozen=True)
class World:
    """One process among those that were launched together.

    Attributes:
        rank: which process this is, from 0.
        size: how many there are, at least two.
        local_rank: which of those on the same machine this is.
        address: of the machine of rank 0.
        port: on which the processes find each other.
        meeting_place: ``own`` where rank 0 opens the port, ``agent`` where torchrun's agent has opened it already.
        devices: ``all`` where a process sees every GPU of its machine, ``own`` where SLURM shows it only its own.
    """

    rank: int
    size: int
    local_rank: int
    address: str
    port: int
    meeting_place: str = "own"
    devices: str = "all"

    @property
    def device(self) -> int:
        """Number of the GPU on which this process trains."""
        return 0 if self.devices == "own" else self.local_rank

    def variables(self) -> dict[str, str]:
        """Return what tells a new process that it is this one."""
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.size),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
            "TORCHELASTIC_USE_AGENT_STORE": "False",
        }


def launched_world(environment: Mapping[str, str] = os.environ) -> World | None:
    """Read what launched this process.

    torchrun comes first, since it may run inside SLURM, then Lightning's variables, then those of ``srun``. A single
    process is no world, and neither is an interactive SLURM job or a batch script that does not use ``srun``.

    Raises:
        MosaicError: there are some of the variables, but not all that are needed.
    """
    if int(environment.get("WORLD_SIZE", "1")) > 1 and "LOCAL_RANK" in environment:
        return _from_variables(environment)
    if "SLURM_PROCID" in environment and environment.get("SLURM_JOB_NAME") not in _INTERACTIVE:
        return _from_slurm(environment)
    return None


def _from_variables(environment: Mapping[str, str]) -> World:
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in environment]
    if missing:
        raise MosaicError(
            f"executor: expected {' and '.join(missing)} beside WORLD_SIZE and LOCAL_RANK in the environment, got "
            "nothing: launch with torchrun or srun, or unset WORLD_SIZE"
        )
    size, local_rank = int(environment["WORLD_SIZE"]), int(environment["LOCAL_RANK"])
    return World(
        rank=_global_rank(environment, size, local_rank),
        size=size,
        local_rank=local_rank,
        address=environment["MASTER_ADDR"],
        port=int(environment["MASTER_PORT"]),
        meeting_place="agent" if environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else "own",
    )


def _global_rank(environment: Mapping[str, str], size: int, local_rank: int) -> int:
    """Return the rank among all; Lightning tells only the number of the machine, and ours are equally many on each."""
    if "RANK" in environment:
        return int(environment["RANK"])
    node = int(environment.get("NODE_RANK", "0"))
    if node and "LOCAL_WORLD_SIZE" not in environment:
        raise MosaicError(
            f"executor: expected RANK, or LOCAL_WORLD_SIZE beside NODE_RANK={node}, in the environment, got neither: "
            "launch with torchrun or srun, which set them"
        )
    return node * int(environment.get("LOCAL_WORLD_SIZE", size)) + local_rank


def _from_slurm(environment: Mapping[str, str]) -> World | None:
    """Read the variables of one ``srun`` step; a batch script has those of its job, but no step."""
    size = int(environment.get("SLURM_STEP_NUM_TASKS", environment.get("SLURM_NTASKS", "1")))
    if size < 2 or "SLURM_STEP_ID" not in environment:
        return None
    nodes = environment.get("SLURM_STEP_NODELIST", environment.get("SLURM_JOB_NODELIST", "127.0.0.1"))
    visible = [gpu for gpu in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    return World(
        rank=int(environment["SLURM_PROCID"]),
        size=size,
        local_rank=int(environment.get("SLURM_LOCALID", "0")),
        address=environment.get("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(nodes)),
        port=int(environment.get("MASTER_PORT", 15000 + int(environment.get("SLURM_JOB_ID", "0")) % 10000)),
        devices="own" if len(visible) == 1 else "all",
    )


def check_launch(processes: int, by_slurm: bool, executor: str, shares: bool) -> None:
    """Refuse launches in which processes would do the same work twice, or wait for others that never come.

    Args:
        processes: that train each phase together, as Lightning counts them.
        by_slurm: whether Lightning expects SLURM to have started them.
        executor: name of the class that reaches the clients.
        shares: whether it shares work out over launched processes.

    Raises:
        MosaicError: the launch does not fit.
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
    """Say how GPUs that nobody uses can be used; nothing where there is none.

    Args:
        devices: that are at work on this machine.
        visible: GPUs that this process sees.
    """
    if devices >= visible:
        return ""
    return (
        f"{visible - devices} of the {visible} GPUs that this process sees stay idle: --executor RanksExecutor "
        f"--executor.workers {visible} shares clients out over all of them"
    )


def single_device(trainer: Mapping[str, Any], device: int, executor: str) -> dict[str, Any]:
    """Return Trainer settings for phases that use one device each and know nothing of other processes.

    Args:
        trainer: the parsed ``trainer:`` section.
        device: number of the GPU to use where the section names none.
        executor: name of the class that asks, for the error.

    Raises:
        MosaicError: the section asks for several devices or nodes, or for a strategy that needs them.
    """
    devices, strategy = trainer.get("devices", "auto"), trainer.get("strategy") or "auto"
    chosen = isinstance(devices, list) and len(devices) == 1
    asked = {"devices": devices, "num_nodes": trainer.get("num_nodes") or 1, "strategy": strategy}
    kept = {
        "devices": chosen or devices in ("auto", None, 1, "1"),
        "num_nodes": asked["num_nodes"] == 1,
        "strategy": strategy in ("auto", "single_device"),
    }
    for key, good in kept.items():
        if not good:
            raise MosaicError(
                f"trainer.{key}: expected one device per phase with {executor}, which shares clients out over "
                f"processes, got {asked[key]}: set --trainer.devices 1, or take SerialExecutor, which trains every "
                "phase data-parallel on several devices"
            )
    own = devices if chosen else [device] if uses_gpus(trainer) else 1
    plugins = [*_plugins(trainer), {"class_path": _ENVIRONMENT}]
    return {**trainer, "devices": own, "strategy": "auto", "plugins": plugins}


def uses_gpus(trainer: Mapping[str, Any]) -> bool:
    """Whether a Trainer would train on NVIDIA or AMD GPUs."""
    return trainer.get("accelerator", "auto") in ("gpu", "cuda", "auto", None) and torch.cuda.is_available()


def _plugins(trainer: Mapping[str, Any]) -> list[Any]:
    plugins = trainer.get("plugins") or []
    return plugins if isinstance(plugins, list) else [plugins]
