"""Which process this is, by the variables of every launcher, and what phases of one process among several get."""

import os
import re
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch

from mosaic.errors import MosaicError
from mosaic.executors import RanksExecutor, RayExecutor
from mosaic.executors.processes import environment
from mosaic.executors.processes.environment import World, check_launch, check_shared_memory, idle_gpus, single_device
from mosaic.executors.scheduling import NEVER, Scheduler
from mosaic.training.phases import PhaseRunner
from tests.cases import for_each

TORCHRUN = {
    **{"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "1"},
    **{"MASTER_ADDR": "node7", "MASTER_PORT": "29500", "TORCHELASTIC_USE_AGENT_STORE": "True"},
}
LIGHTNING = {"LOCAL_RANK": "1", "WORLD_SIZE": "2", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "4321"}
JOB = {
    **{"SLURM_JOB_ID": "1234567", "SLURM_JOB_NAME": "mosaic", "SLURM_NTASKS": "8", "SLURM_JOB_NODELIST": "gpu[07-08]"},
    **{"SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
}
"""What a batch script has before it says srun."""
SRUN = {
    **JOB,
    **{"SLURM_PROCID": "6", "SLURM_LOCALID": "2", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "8"},
    "SLURM_STEP_NODELIST": "gpu[07-08]",
}


def launched_world(variables: dict[str, str]) -> World | None:
    """What a process finds out whose environment holds these variables and no other."""
    with patch.dict(os.environ, variables, clear=True):
        return environment.launched_world()


def pretend_gpus(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: number)


class TestLaunchedWorld:
    @pytest.fixture(autouse=True)
    def _no_gpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pretend_gpus(monkeypatch, 0)

    def test_torchrun(self) -> None:
        assert launched_world(TORCHRUN) == World(5, 8, 1, "node7", 29500, meeting_place="agent")

    def test_lightning(self) -> None:
        assert launched_world(LIGHTNING) == World(1, 2, 1, "127.0.0.1", 4321)

    def test_lightning_on_the_second_machine(self) -> None:
        second = {**LIGHTNING, "NODE_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
        world = launched_world(second)
        assert world is not None
        assert (world.rank, world.size, world.local_rank) == (3, 4, 1)

    @pytest.mark.parametrize(("name", "value"), [("WORLD_SIZE", "two"), ("LOCAL_RANK", "x"), ("MASTER_PORT", "-1")])
    def test_variables_that_are_no_numbers_are_named(self, name: str, value: str) -> None:
        with pytest.raises(MosaicError, match=f"{name}: expected a whole number in the environment, got '{value}'"):
            launched_world({**LIGHTNING, name: value})

    def test_srun(self) -> None:
        assert launched_world(SRUN) == World(6, 8, 2, "gpu07", 15000 + 4567, launch="1234567.0")

    def test_two_steps_of_a_job_meet_at_two_ports(self) -> None:
        one, other = (launched_world({**SRUN, "SLURM_STEP_ID": step}) for step in "12")
        assert one.port != other.port  # type: ignore[union-attr]

    def test_srun_where_every_task_sees_its_own_gpu(self) -> None:
        assert launched_world({**SRUN, "CUDA_VISIBLE_DEVICES": "2"}).device() == 0  # type: ignore[union-attr]
        assert launched_world({**SRUN, "CUDA_VISIBLE_DEVICES": "0,1,2,3"}).device() == 2  # type: ignore[union-attr]

    def test_torchrun_inside_srun(self) -> None:
        assert launched_world({**SRUN, **TORCHRUN}) == launched_world(TORCHRUN)

    def test_an_address_that_is_given_comes_first(self) -> None:
        world = launched_world({**SRUN, "MASTER_ADDR": "10.0.0.3", "MASTER_PORT": "99"})
        assert world is not None
        assert (world.address, world.port) == ("10.0.0.3", 99)

    @for_each(
        "variables",
        [
            {},
            {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"},
            {"WORLD_SIZE": "4"},
            JOB,
            {**SRUN, "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
            {**SRUN, "SLURM_JOB_NAME": "interactive", "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"},
            {**SRUN, "SLURM_JOB_NAME": "bash"},
        ],
        ids=[
            *("nothing", "torchrun with one process", "a size alone", "a batch script without srun"),
            *("srun with one task", "an interactive shell with one task", "an interactive shell with eight"),
        ],
    )
    def test_one_process_is_no_world(self, variables: dict[str, str]) -> None:
        assert launched_world(variables) is None

    @pytest.mark.parametrize("kept", ["MASTER_ADDR", "MASTER_PORT"])
    def test_half_an_address_is_refused(self, kept: str) -> None:
        variables = {name: LIGHTNING[name] for name in ("WORLD_SIZE", "LOCAL_RANK", kept)}
        with pytest.raises(MosaicError, match="expected MASTER_"):
            launched_world(variables)

    def test_an_unknown_rank_is_refused(self) -> None:
        with pytest.raises(MosaicError, match="NODE_RANK=1"):
            launched_world({**LIGHTNING, "NODE_RANK": "1"})

    def test_a_launch_is_the_same_on_all_its_nodes_and_another_for_another_step(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Torchrun may be started once for each node, by steps or jobs of their own; objects have no recipe."""

        def run(variables: dict[str, str]) -> str:
            with monkeypatch.context() as patched:
                for name, value in variables.items():
                    patched.setenv(name, value)
                return RanksExecutor()._run

        torchrun = {**TORCHRUN, "TORCHELASTIC_RUN_ID": "mine"}
        assert run({**SRUN, **torchrun}) == run({**SRUN, **torchrun, "SLURM_STEP_ID": "1"}) == run(torchrun)
        assert run(torchrun) != run({**torchrun, "TORCHELASTIC_RUN_ID": "yours"})
        assert run(SRUN) != run({**SRUN, "SLURM_STEP_ID": "1"})

    def test_a_process_finds_out_by_the_variables_that_it_is_given(self) -> None:
        world = World(2, 3, 2, "127.0.0.1", 1234)
        assert launched_world({**SRUN, **TORCHRUN, **world.variables()}) == world


class TestOneDevicePerPhase:
    @pytest.mark.parametrize(
        ("visible", "variables", "device"),
        [
            (1, {"ROCR_VISIBLE_DEVICES": "3"}, 0),
            (1, {}, 0),
            (2, {"CUDA_VISIBLE_DEVICES": "6,7", "SLURM_GPUS_PER_TASK": "2"}, 1),
            (4, {"SLURM_GPUS_PER_TASK": "1", "SLURM_GPU_BIND": "none"}, 3),
            (4, {}, 3),
        ],
        ids=["AMD", "a cgroup", "two for each task", "all in spite of one for each task", "all"],
    )
    def test_a_task_that_sees_only_its_own_gpus_trains_on_one_of_them(
        self, visible: int, variables: dict[str, str], device: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pretend_gpus(monkeypatch, visible)
        for name, value in {**SRUN, "SLURM_LOCALID": "3", **variables}.items():
            monkeypatch.setenv(name, value)
        assert RanksExecutor().trainer({"accelerator": "gpu", "devices": 1})["devices"] == [device]

    def test_more_tasks_than_gpus_that_all_of_them_see_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pretend_gpus(monkeypatch, 2)
        for name, value in SRUN.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(MosaicError, match=r"executor\.workers: expected at most 2 on this machine, .*, got 3"):
            RanksExecutor().trainer({"accelerator": "gpu", "devices": 1})

    @pytest.mark.parametrize("devices", ["auto", 1, "1"])
    def test_the_local_rank_picks_the_gpu(self, devices: str | int, monkeypatch: pytest.MonkeyPatch) -> None:
        pretend_gpus(monkeypatch, 4)
        assert single_device({"accelerator": "gpu", "devices": devices}, 3, "RanksExecutor")["devices"] == [3]

    def test_a_gpu_that_is_named_is_shared(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pretend_gpus(monkeypatch, 4)
        assert single_device({"accelerator": "gpu", "devices": [2]}, 3, "RanksExecutor")["devices"] == [2]

    def test_cpus_are_not_numbered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pretend_gpus(monkeypatch, 4)
        assert single_device({"accelerator": "cpu", "devices": 1}, 3, "RanksExecutor")["devices"] == 1

    @pytest.mark.parametrize(("name", "devices"), [("CUDAAccelerator", [3]), ("CPUAccelerator", 1)])
    def test_an_accelerator_may_be_an_object(self, name: str, devices: object, monkeypatch: pytest.MonkeyPatch) -> None:
        pretend_gpus(monkeypatch, 4)
        trainer = {"accelerator": {"class_path": f"lightning.pytorch.accelerators.{name}"}, "devices": 1}
        assert single_device(trainer, 3, "RanksExecutor")["devices"] == devices

    @for_each(
        ("key", "value"),
        [("devices", 2), ("devices", [0, 1]), ("devices", -1), ("num_nodes", 2), ("strategy", "ddp")],
    )
    @for_each("executor", [RanksExecutor, RayExecutor])
    def test_data_parallel_phases_belong_to_serial(self, executor: Any, key: str, value: object) -> None:
        with pytest.raises(
            MosaicError, match=rf"trainer\.{key}: expected one device .*{executor.__name__}.*"
        ) as caught:
            executor(workers=2).trainer({"accelerator": "cpu", "devices": 1, key: value})
        assert "SerialExecutor" in str(caught.value)

    @pytest.mark.parametrize("variables", [TORCHRUN, SRUN], ids=["torchrun", "srun"])
    def test_phases_know_nothing_of_other_processes(
        self, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Lightning itself would take the launcher's ranks for its own, and refuse SLURM's number of tasks."""
        for name, value in {**variables, "SLURM_NTASKS_PER_NODE": "4"}.items():
            monkeypatch.setenv(name, value)
        phases = PhaseRunner(single_device({"accelerator": "cpu", "devices": 1}, 1, "RanksExecutor"))
        assert phases.rank == 0
        assert phases.device == torch.device("cpu")

    def test_more_processes_than_gpus_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pretend_gpus(monkeypatch, 1)
        with pytest.raises(MosaicError, match=r"executor\.workers: expected at most 1 on this machine, 1 for"):
            RanksExecutor(workers=2).trainer({"accelerator": "gpu", "devices": "auto"})
        assert RanksExecutor(workers=2).trainer({"accelerator": "gpu", "devices": [0]})["devices"] == [0]

    def test_several_processes_share_each_gpu_where_asked_to(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pretend_gpus(monkeypatch, 2)
        asked = {"accelerator": "gpu", "devices": "auto"}
        first = RanksExecutor(workers=6, workers_per_device=3)
        assert (first.trainer(asked)["devices"], first.devices) == ([0], 2)
        for rank, device in enumerate([0, 0, 0, 1, 1, 1]):
            with monkeypatch.context() as patch:
                for name, value in World(rank, 6, rank, "127.0.0.1", 1234).variables().items():
                    patch.setenv(name, value)
                assert RanksExecutor(workers_per_device=3).trainer(asked)["devices"] == [device]
        with pytest.raises(MosaicError, match=r"executor\.workers: expected at most 6 on this machine, 3 for"):
            RanksExecutor(workers=7, workers_per_device=3).trainer(asked)
        with pytest.raises(MosaicError, match=r"executor\.workers_per_device: expected a number above 0, got 0"):
            RanksExecutor(workers=2, workers_per_device=0)

    def test_ray_workers_without_a_share_of_a_gpu_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pretend_gpus(monkeypatch, 1)
        with pytest.raises(MosaicError, match=r"executor\.gpus_per_worker: expected a share"):
            RayExecutor(workers=2).trainer({"accelerator": "auto"})
        assert RayExecutor(workers=2, gpus_per_worker=0.5).trainer({"accelerator": "auto"})["devices"] == [0]


class TestNumberOfProcesses:
    def test_a_launched_world_says_how_many(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in TORCHRUN.items():
            monkeypatch.setenv(name, value)
        assert RanksExecutor().workers == RanksExecutor(workers=8).workers == 8
        with pytest.raises(MosaicError, match="expected 8, as many processes as were launched, got 2"):
            RanksExecutor(workers=2)

    def test_nobody_says_how_many(self) -> None:
        with pytest.raises(MosaicError, match=r"executor\.workers: expected a number of processes, got none"):
            RanksExecutor()

    @pytest.mark.parametrize("executor", [RanksExecutor, RayExecutor])
    def test_no_workers_are_refused(self, executor: Any) -> None:
        with pytest.raises(MosaicError, match=r"executor\.workers: expected a number above 0, got 0"):
            executor(workers=0)


BY_HAND = (1, False, "RayExecutor", False)


@pytest.mark.parametrize(
    ("launch", "asked", "says"),
    [
        (TORCHRUN, BY_HAND, "executor: 8 processes were launched, and with RayExecutor"),
        (SRUN, BY_HAND, "executor: 8 processes were launched, and with RayExecutor"),
        (JOB, (4, True, "SerialExecutor", False), "got 1: put `srun --ntasks 4` before the command"),
        (SRUN, (4, True, "SerialExecutor", False), "trainer.devices: expected 4 processes started by srun"),
        ({**JOB, "SLURM_NTASKS": "1"}, (2, True, "SerialExecutor", False), "--executor.workers 2"),
        (TORCHRUN, (8, False, "SerialExecutor", False), None),
        (TORCHRUN, (1, False, "RanksExecutor", True), None),
        (SRUN, (8, True, "SerialExecutor", False), None),
        (JOB, BY_HAND, None),
        (JOB, (4, False, "SerialExecutor", False), None),
        ({}, (2, False, "SerialExecutor", False), None),
    ],
)
def test_a_launch_that_would_work_twice_or_wait_for_ever_is_refused(
    launch: dict[str, str], asked: tuple[Any, ...], says: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in launch.items():
        monkeypatch.setenv(name, value)
    if says is None:
        check_launch(*asked)
    else:
        with pytest.raises(MosaicError, match=re.escape(says)):
            check_launch(*asked)


def test_idle_gpus_are_named_with_what_uses_them() -> None:
    assert "3 of the 4 GPUs" in idle_gpus(1, 4)
    assert "--executor.workers 4" in idle_gpus(1, 4)
    assert idle_gpus(4, 4) == idle_gpus(1, 1) == idle_gpus(1, 0) == ""


def test_processes_that_a_gpus_memory_cannot_hold_are_refused() -> None:
    """Of 2 GiB each process takes 512 MiB, and four times the 64 MiB of its model."""
    check_shared_memory(2, 2**26, 2**31)
    with pytest.raises(MosaicError, match=r"workers_per_device: expected at most 2, .* 0\.8 GiB .* 2\.0 GiB .*, got 3"):
        check_shared_memory(3, 2**26, 2**31)


def test_no_thread_outlives_the_processes_that_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    gone, executor = Event(), RanksExecutor(workers=2)
    waiting = Thread(target=gone.wait, daemon=True)
    waiting.start()
    monkeypatch.setattr(executor, "_senders", {waiting: Scheduler([], lambda _: 1.0, [NEVER] * 2)})
    monkeypatch.setattr(executor, "_children", SimpleNamespace(end=lambda asked: gone.set()))
    executor.close()
    assert not waiting.is_alive()
