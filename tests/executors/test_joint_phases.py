"""Phases of the server in which all processes of a world take part."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mosaic.cli.main import main
from tests.executors.test_executors import (
    HERE,
    LAUNCHED,
    as_torchrun_does,
    children,
    executor,
    launch,
    record,
    refusal,
)
from tests.small_runs import assert_same_run, final_model, fit_other, stages, tiny_fit

pytestmark = pytest.mark.slow
ALL = "--executor.server_phases=all"


def on_two(name: str = "mosaic.executors.RanksExecutor", *more: str) -> list[str]:
    return executor(name, "--executor.workers=2", *more)


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the process groups that this process joins."""
    sizes: list[int] = []
    join = torch.distributed.init_process_group

    def note(*args: Any, **options: Any) -> None:
        join(*args, **options)
        sizes.append(torch.distributed.get_world_size())

    monkeypatch.setattr(torch.distributed, "init_process_group", note)
    return sizes


def test_all_processes_agree_with_the_first_alone(groups: list[int], tmp_path: Path) -> None:
    """Without BatchNorm, which sees half of a batch, and shifts, which each draws, only the order of sums is left."""
    gate = ("--model.net=tests.small_runs.LinearNet", "--algorithm.teacher=Prior", "--data.validation_share=0")
    gate = (*gate, "--algorithm.distillation.shift=0")
    main(tiny_fit(tmp_path / "one", *gate, *on_two()))
    assert groups == []
    main(tiny_fit(tmp_path / "two", *gate, *on_two(), ALL))
    assert groups == [2]
    assert not torch.distributed.is_initialized()
    assert "student" in stages(tmp_path / "two")
    ours, theirs = final_model(tmp_path / "one"), final_model(tmp_path / "two")
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-5
    assert children() == []


def test_images_that_the_first_process_makes_on_the_way_cannot_be_shared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, *tiny_fit(tmp_path / "run", *on_two(), ALL, "--algorithm.distillation.refreshes=1"))
    assert "executor.server_phases: all processes can only share a phase whose images are there" in line
    assert children() == []


def test_clients_train_alone(groups: list[int], tmp_path: Path) -> None:
    """Until the server has distilled for the first time every reply is that of a serial run."""
    _, serial = record(tmp_path / "serial", *executor(f"{HERE}.RecordingSerial"))
    _, shared = record(tmp_path / "shared", *on_two(f"{HERE}.RecordingRanks"), ALL)
    trained, made = 4, 4
    assert shared[: trained + made] == serial[: trained + made]
    assert len(shared) == len(serial)
    assert groups


@pytest.mark.parametrize("algorithm", ["DENSE", "FedFTG", "DFRD"])
def test_twice_the_same_bits(algorithm: str, groups: list[int], tmp_path: Path) -> None:
    budget = ("--algorithm.student_updates=4", "--algorithm.generator_updates=60", "--data.validation_share=0")
    runs = [fit_other(tmp_path / name, algorithm, *budget, *on_two(), ALL) for name in ("once", "again")]
    assert_same_run(*runs)
    assert groups


def test_a_launched_world_gives_the_run_of_one_that_was_started(tmp_path: Path) -> None:
    main(tiny_fit(tmp_path / "started", *on_two(), ALL))
    (first, said, _), (second, _, errors) = launch(as_torchrun_does(), tiny_fit(tmp_path / "run", *LAUNCHED, ALL))
    assert (first, second) == (0, 0), errors[-2000:]
    assert "Run directory:" in said
    assert_same_run(tmp_path / "started", tmp_path / "run")
    assert "student" in stages(tmp_path / "run")


def test_a_choice_that_there_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, *tiny_fit(tmp_path / "run", *on_two(), "--executor.server_phases=some"))
    assert "executor.server_phases: expected first or all, got some" in line
