"""Runs in which replies are missing, of any client in any phase: they go on, and say who was missing."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from mosaic.cli.main import main
from mosaic.client.worker import Worker
from mosaic.executors import SerialExecutor
from mosaic.messages import Failed, Reply, Request
from mosaic.report.html import report
from mosaic.report.summary import print_summary
from mosaic.teachers.answers import neutralise_unknown_classes
from tests.small_runs import (
    FOUR_ROUNDS,
    SharedRuns,
    assert_same_run,
    failed,
    final_model,
    fit_arguments,
    fit_other,
    initial_model,
    rows_without_time,
    stages,
    tiny_fit,
)

HERE = "tests.test_missing_clients"
EVERYBODY = [0, 1, 2, 3]
NO_QUORUM = "--federation.faults.quorum=0"
NO_HEAD = "--algorithm.new_head=false"


class Losing(SerialExecutor):
    """Loses replies.

    Args:
        lost: of which clients, by what they were asked, in one round or, without its number, in all: ``1/Train``.
        threads: of the process.
    """

    def __init__(self, lost: dict[str, list[int]], threads: int | None = 1) -> None:
        super().__init__(threads)
        self.lost = lost

    def _handle(self, worker: Worker, request: Request, *more: Any) -> Reply:
        kind = type(request).__name__.removesuffix("Request")
        if any(request.client in self.lost.get(key, ()) for key in (kind, f"{request.round}/{kind}")):
            return Failed(request.client, "its line is dead")
        return super()._handle(worker, request, *more)


def losing(lost: Mapping[str, list[int]]) -> list[str]:
    return [f"--executor={HERE}.Losing", f"--executor.lost={json.dumps(lost)}", "--executor.threads=1"]


def failures(run: Path) -> list[tuple[int, int, str]]:
    told = failed(run)
    assert {each["reason"] for each in told} <= {"its line is dead"}
    return [(each["round"], each["client"], each["asked"]) for each in told]


def test_where_no_upload_arrives_the_model_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(tiny_fit(tmp_path / "lost", *losing({"Train": EVERYBODY}), NO_QUORUM, NO_HEAD))
    assert "no generator to make images with, so nothing is distilled" in capsys.readouterr().err
    untrained = initial_model()
    assert all(torch.equal(tensor, untrained[name]) for name, tensor in final_model(tmp_path / "lost").items())
    assert failures(tmp_path / "lost") == [(1, client, "Train") for client in EVERYBODY]


def test_without_a_single_generator_nothing_is_distilled(tmp_path: Path, shared_run: SharedRuns) -> None:
    main(tiny_fit(tmp_path / "run", *losing({"Generator": EVERYBODY}), NO_QUORUM, NO_HEAD))
    assert "student" not in stages(tmp_path / "run")
    average = final_model(shared_run("FedAvg"))
    assert all(torch.equal(tensor, average[name]) for name, tensor in final_model(tmp_path / "run").items())


def test_a_last_round_that_distils_nothing_gives_the_average_a_new_head(tmp_path: Path, shared_run: SharedRuns) -> None:
    main(tiny_fit(tmp_path / "run", *losing({"Generator": EVERYBODY}), NO_QUORUM))
    headed, average = final_model(tmp_path / "run"), final_model(shared_run("FedAvg"))
    assert {name for name in average if not torch.equal(headed[name], average[name])} == {
        "net.head.weight",
        "net.head.bias",
    }


def test_a_teacher_without_prototypes_makes_way_for_one_that_needs_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(tiny_fit(tmp_path / "lost", *losing({"Prototype": EVERYBODY}), NO_QUORUM))
    said = "no client has sent a prototype for Fusion, so Prior takes its place"
    assert capsys.readouterr().err.count(said) == 1
    others = [flag for flag in tiny_fit(tmp_path / "prior") if not flag.startswith("--algorithm.teacher")]
    main([*others, "--algorithm.teacher=Prior", NO_HEAD])
    assert_same_run(tmp_path / "lost", tmp_path / "prior", extended=True)  # but for the bytes of what was asked for


def test_a_class_whose_prototypes_are_lost_is_not_ruled_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its images are still drawn; a meta model that has never heard of the class would say that they are others."""
    unknown: list[list[int]] = []

    def noting(classes: Tensor, *more: Any) -> Tensor:
        unknown.append(classes.nonzero().flatten().tolist())
        return neutralise_unknown_classes(classes, *more)

    monkeypatch.setattr("mosaic.teachers.forming.neutralise_unknown_classes", noting)
    flags = [flag for flag in tiny_fit(tmp_path / "run") if "data.partition" not in flag]
    main([*flags, "--data.partition=tests.client.test_worker.ByRemainder", *losing({"Prototype": [1]})])
    assert unknown == [[1, 4, 7]]  # the digits that client 1 alone holds


def test_a_generator_that_did_not_arrive_is_asked_for_in_the_next_distilling_round(tmp_path: Path) -> None:
    """Client 2's upload is missing in the first one, so that it is not asked there; client 1's generator is lost."""
    main(tiny_fit(tmp_path / "run", *FOUR_ROUNDS, *losing({"1/Train": [2], "1/Generator": [1]})))
    run = tmp_path / "run"
    assert failures(run) == [(1, 2, "Train"), (1, 1, "Generator")]
    told = json.loads((run / "summary.json").read_text())
    assert [facts["client"] for facts in told["generators"]] == EVERYBODY
    assert told["declined"] == []


def test_who_was_missing_is_told_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    main(
        fit_arguments(
            run, "FedAvg", "--federation.schedule.collaborative_rounds=3", *losing({"Train": [2], "2/Train": [0]})
        )
    )
    assert "round 2: client 0 failed: its line is dead" in capsys.readouterr().err
    print_summary(run, Console(width=200))
    said = capsys.readouterr().out
    assert "Client 2 failed (Train, 3 times): its line is dead" in said
    assert "Client 0 failed (Train): its line is dead" in said
    page = report(run, tmp_path / "page.html").read_text()
    assert page.count("its line is dead") == 2
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [(each.step, each.value) for each in events.Scalars("clients/missing_train")] == [(1, 1), (2, 2), (3, 1)]


@pytest.mark.parametrize("algorithm", ["FedBN", pytest.param("Mosaic", marks=pytest.mark.slow)])
def test_below_the_quorum_the_run_leaves_a_snapshot_and_goes_on_bit_for_bit(
    algorithm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds = ("--federation.schedule.collaborative_rounds=3", "--federation.snapshot_every=3")
    undisturbed = fit_other(tmp_path / "undisturbed", algorithm, *rounds)
    run = tmp_path / "run"
    with pytest.raises(SystemExit) as left:
        fit_other(run, algorithm, *rounds, *losing({"3/Train": [0, 1, 3]}))
    assert left.value.code == 69
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "got 1; missing: client 0, 1, 3 (its line is dead)" in line
    assert [path.name for path in (run / "rounds").iterdir()] == ["0002"]
    fit_other(run, algorithm, *rounds, "--ckpt_path=auto")
    ours, theirs = (
        {file.name: file.read_bytes() for file in (each / "rounds" / "0003").rglob("*.safetensors")}
        for each in (run, undisturbed)
    )
    assert ours == theirs
    assert rows_without_time(run) == rows_without_time(undisturbed)


GENERATES = ("DENSE", "CoBoosting", "FedFTG", "DFRD")
AVERAGES = ("FedAvg", "FedProx", "FedRS", "FedVLS", "FedBN", "LocalOnly", "PrototypeHead")
ALGORITHMS = ("Mosaic", *AVERAGES, *GENERATES)
SHORT = {
    **dict.fromkeys(GENERATES, ("--algorithm.student_updates=2", "--algorithm.generator_updates=30")),
}
KINDS = ("Train", "Generator", "Prototype", "Evaluate")


def assert_survives(algorithm: str, lost: Mapping[str, list[int]], run: Path, *more: str) -> None:
    main(fit_arguments(run, algorithm, *SHORT.get(algorithm, ()), *losing(lost), NO_QUORUM, *more))
    models = [final_model(run)] if (run / "global.ckpt").exists() else []
    assert all(tensor.isfinite().all() for model in models for tensor in model.values())
    report(run, run.parent / f"{run.name}.html")


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_survives_a_phase_without_any_reply(algorithm: str, tmp_path: Path) -> None:
    for kind in KINDS:
        assert_survives(algorithm, {kind: EVERYBODY}, tmp_path / kind)
        assert_survives(
            algorithm, {kind: [0, 2, 3]}, tmp_path / f"{kind} but one", "--federation.schedule.collaborative_rounds=2"
        )


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_survives_any_subset_of_replies(algorithm: str, tmp_path: Path) -> None:
    drawn = random.Random(algorithm)
    for trial in range(6):
        lost = {
            f"{round}/{kind}": [client for client in EVERYBODY if drawn.random() < 0.5]
            for round in (1, 2, 3, 4)
            for kind in KINDS
        }
        assert_survives(algorithm, lost, tmp_path / str(trial), *FOUR_ROUNDS)


@pytest.mark.slow
@pytest.mark.parametrize("teacher", ["Transformer", "Residual", "Prototypes", "Owner", "Mean", "Prior", "Labels"])
def test_every_teacher_survives_any_subset_of_replies(teacher: str, tmp_path: Path) -> None:
    drawn = random.Random(teacher)
    more = [f"--algorithm.teacher={teacher}"]
    if teacher == "Labels":
        more.append("--algorithm.distillation.origin_weight=1")
    if teacher in ("Mean", "Owner"):
        more.append("--algorithm.distillation.origin_weight=0")
    if teacher in ("Transformer", "Residual"):
        more += ["--algorithm.teacher.fit_on_prototypes=true", "--algorithm.teacher.fitting.epochs=1"]
    base = [
        flag
        for flag in tiny_fit(tmp_path / "run")
        if not flag.startswith(("--algorithm.teacher", "--federation.run_dir"))
    ]
    for trial in range(6):
        lost = {
            f"{round}/{kind}": [client for client in EVERYBODY if drawn.random() < 0.5]
            for round in (1, 3)
            for kind in KINDS
        }
        main([*base, *FOUR_ROUNDS, *more, *losing(lost), NO_QUORUM, f"--federation.run_dir={tmp_path / str(trial)}"])


@pytest.mark.parametrize("algorithm", ["FedAvg", "LocalOnly"])
def test_a_run_in_which_nobody_has_trained_does_not_end_well(
    algorithm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refusing counts as an answer, as it must for a client without images, or whose budget is spent."""
    with pytest.raises(SystemExit) as stop:
        fit_other(tmp_path / "run", algorithm, "--federation.schedule.learning_rate=1e20")
    said = " ".join(capsys.readouterr().err.split())
    assert stop.value.code == 69
    assert "round 1: no client has trained, so nothing has been learnt of their images" in said
    assert "expected a client that trains, got none in 1 rounds; the first of them said: " in said
    assert not (tmp_path / "run" / "summary.json").exists()
