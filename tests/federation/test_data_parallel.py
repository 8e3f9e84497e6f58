"""Two ranks on two CPU processes, as Lightning launches them."""

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mosaic.cli.main import main
from mosaic.client.objectives import CrossEntropy, LocalContext
from mosaic.federation import federation
from mosaic.tasks.classification import LocalLoss
from tests.small_runs import (
    FOUR_ROUNDS,
    REPOSITORY,
    TWO_ROUNDS,
    assert_same_run,
    final_model,
    fit_arguments,
    fit_other,
    stages,
    tiny_fit,
)


def start(arguments: list[str]) -> "subprocess.CompletedProcess[str]":
    """Run the command in a process of its own, which launches the second rank."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "mosaic", *arguments, "--trainer.devices=2", "--trainer.strategy=ddp"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def launch(arguments: list[str]) -> str:
    """Run the command on two ranks, and return what it prints."""
    process = start(arguments)
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


@pytest.mark.usefixtures("processes")
def test_two_ranks_walk_the_same_run_and_one_writes(tmp_path: Path) -> None:
    printed = launch(tiny_fit(tmp_path / "two", *TWO_ROUNDS))
    assert printed.count("Run directory:") == 1
    assert len((tmp_path / "two" / "metrics.csv").read_text().splitlines()) == 3
    assert all(tensor.isfinite().all() for tensor in final_model(tmp_path / "two").values())


SWITCHES = [
    "--algorithm.distillation.view.padding=1",
    "--algorithm.distillation.noise=0.03",
    "--algorithm.distillation.average_decay=0.9",
    "--algorithm.expert_statistics=recalibrated",
    "--algorithm.teacher=Residual",
    "--algorithm.teacher.fit_on_prototypes=true",
    "--data.validation_share=0",
]


@pytest.mark.slow
def test_two_ranks_agree_with_themselves_whatever_the_switches(tmp_path: Path) -> None:
    for name in ("once", "again"):
        launch(tiny_fit(tmp_path / name, *FOUR_ROUNDS, *SWITCHES))
    assert_same_run(tmp_path / "once", tmp_path / "again")
    assert "student" in stages(tmp_path / "once")
    assert all(tensor.isfinite().all() for tensor in final_model(tmp_path / "once").values())


@pytest.mark.slow
@pytest.mark.parametrize(
    "clients",
    [
        ["--clients.levels=[1.0,0.5]"],
        ['--clients.models=["global",{"class_path":"mosaic.nets.MLP"}]', "--algorithm.teach_back=true"],
    ],
    ids=["sub-models", "own models"],
)
def test_two_ranks_agree_with_themselves_whatever_the_clients_run(clients: list[str], tmp_path: Path) -> None:
    for name in ("once", "again"):
        launch(tiny_fit(tmp_path / name, *FOUR_ROUNDS, *clients, "--data.validation_share=0"))
    assert_same_run(tmp_path / "once", tmp_path / "again")
    assert "student" in stages(tmp_path / "once")


@pytest.mark.usefixtures("processes")
def test_a_federated_average_agrees_with_one_process(tmp_path: Path) -> None:
    """Without BatchNorm (which sees half of each batch on either rank) only the order of sums is left."""
    flags = ("--model.net=tests.small_runs.LinearNet", *TWO_ROUNDS)
    fit_other(tmp_path / "one", "FedAvg", *flags)
    launch(fit_arguments(tmp_path / "two", "FedAvg", *flags))
    ours, theirs = final_model(tmp_path / "one"), final_model(tmp_path / "two")
    largest = max(float((ours[name] - theirs[name]).abs().max()) for name in ours)
    assert largest < 1e-5


def test_what_rank_0_refuses_launches_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning.pytorch.trainer.Trainer.fit", lambda *_, **__: pytest.fail("launched"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "something").touch()
    with pytest.raises(SystemExit) as stop:
        main([*tiny_fit(tmp_path / "run"), "--trainer.devices=2", "--trainer.strategy=ddp"])
    assert stop.value.code == 2
    assert "a run is never overwritten" in capsys.readouterr().err


class FailsOnRank(CrossEntropy):
    """Raises in the second step of one rank, while the others wait for its gradients.

    Args:
        rank: which.
    """

    def __init__(self, rank: int) -> None:
        self._rank = rank

    def bind(self, context: LocalContext) -> LocalLoss:
        plain, steps = super().bind(context), itertools.count()

        def loss(*batch: Any) -> Tensor:
            if next(steps) == 1 and torch.distributed.get_rank() == self._rank:
                raise ZeroDivisionError("on one rank")
            return plain(*batch)

        return loss


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_rank_that_fails_says_so_and_ends_all(rank: int, tmp_path: Path) -> None:
    """Waiting for the end of the output is waiting for all ranks, since their pipes are the same."""
    failing = [
        "--algorithm.objective=tests.federation.test_data_parallel.FailsOnRank",
        f"--algorithm.objective.rank={rank}",
    ]
    done = start(fit_arguments(tmp_path / "run", "FedAvg", *failing))
    assert done.returncode not in (0, 2)
    assert "client 0 failed on one of several ranks" in done.stderr
    assert "ZeroDivisionError: on one rank" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["forked"], indirect=True)
@pytest.mark.usefixtures("processes")
def test_ranks_that_would_begin_elsewhere_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with folders of each machine's own: rank 1 finds no snapshot."""
    arguments = fit_arguments(tmp_path / "run", "FedAvg", *TWO_ROUNDS)
    launch(arguments)
    find = federation.find_snapshot
    monkeypatch.setattr(
        federation, "find_snapshot", lambda *given: None if os.environ.get("LOCAL_RANK") == "1" else find(*given)
    )
    more = "--federation.schedule.collaborative_rounds=3"
    done = start([*arguments, more, "--ckpt_path=auto"])
    assert done.returncode == 2, done.stderr[-3000:]
    assert "expected all ranks to begin at round 3 with state" in done.stderr
    assert "got round 1 with state" in done.stderr
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 3
