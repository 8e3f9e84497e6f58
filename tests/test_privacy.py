"""Whole runs with a privacy budget."""

import io
import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from torch import Tensor

import mosaic
from mosaic.algorithms import FedAvg
from mosaic.cli.main import main
from mosaic.client import private_worker
from mosaic.data import DirichletPartition, FederatedDataModule, SklearnDigits
from mosaic.errors import MosaicError
from mosaic.messages import StateDict, TrainReply
from mosaic.privacy import Privacy
from mosaic.privacy.settings import Shares
from mosaic.report.contents import read_run
from mosaic.report.html import page
from mosaic.report.summary import print_summary
from tests.cases import for_each
from tests.small_runs import DIGITS, LinearNet, SharedRuns, final_model, fit_other, summary

pytest.importorskip("dp_accounting", exc_type=ImportError)
PUBLIC = ("--data.mean=[0.3]", "--data.std=[0.38]")
SGD = "{epsilon: 10, local_training: dp_sgd, shares: {counts: 0, means: 0, moments: 0, training: 1}}"
SUMS = (
    *PUBLIC,
    "--privacy.epsilon=10",
    "--algorithm.generation=ClassGaussians",
    "--algorithm.generation.coefficients=6",
)
TRAINS = (*PUBLIC, f"--privacy={SGD}", "--model.net.norm=group", "--model.net.width=2")
MORE = "--federation.schedule.collaborative_rounds=2"


@pytest.fixture
def run(shared_run: SharedRuns) -> Path:
    return shared_run("Mosaic", *SUMS)


def test_clients_send_noisy_sums_and_nothing_else(run: Path) -> None:
    told = summary(run)
    assert told["bytes_up"].keys() == {"Release"}
    assert told["distilled"]
    assert (told["failed"], told["declined"], told["generators"]) == ([], [], [])
    privacy = told["privacy"]
    assert privacy["promised"] == {"epsilon": 10.0, "delta": 1e-5}
    assert 9.9 < privacy["spent"]["epsilon"] <= 10
    assert privacy["spent"]["clients"] == 4
    assert [each["name"] for each in privacy["mechanisms"]] == ["counts", "means", "moments"]
    assert privacy["accountant"].startswith("dp-accounting")


def test_the_closing_tables_say_what_is_promised_and_spent(run: Path) -> None:
    print_summary(run, Console(file=(said := io.StringIO()), width=200))
    (line,) = [line for line in said.getvalue().splitlines() if line.startswith("Privacy: ")]
    spent = summary(run)["privacy"]["spent"]["epsilon"]
    assert f"for each client; at most {spent:.2f} is spent." in line


def test_the_report_says_what_is_promised_and_what_is_not(run: Path) -> None:
    text = page(read_run(run))
    for said in ("at most epsilon 10.0 at delta 1e-05", "one image of a client added or removed", "Not covered"):
        assert said in text


def test_noise_differs_between_runs_and_no_seed_brings_it_back(run: Path, tmp_path: Path) -> None:
    again = fit_other(tmp_path / "again", "Mosaic", *SUMS)
    assert any(
        not one.equal(other) for one, other in zip(final_model(run).values(), final_model(again).values(), strict=True)
    )


def test_rounds_that_are_added_ask_for_nothing_new_and_cost_nothing(tmp_path: Path) -> None:
    first = fit_other(tmp_path / "run", "Mosaic", *SUMS)
    before, spent = final_model(first), summary(first)["privacy"]["spent"]
    fit_other(first, "Mosaic", *SUMS, MORE, "--ckpt_path=last")
    assert summary(first)["privacy"]["spent"] == spent
    assert all(before[name].equal(tensor) for name, tensor in final_model(first).items())


def test_a_run_does_not_go_on_without_the_book_of_one_of_its_clients(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = shutil.copytree(run, tmp_path / "run")
    sorted(ours.glob("privacy/client_*/book.json"))[1].unlink()
    with pytest.raises(SystemExit) as left:
        fit_other(ours, "Mosaic", *SUMS, MORE, "--ckpt_path=last")
    assert left.value.code == 2
    assert "book.json: expected 1 bookings or more, as the last snapshot has seen, got 0" in capsys.readouterr().err


def test_local_training_spends_its_budget_over_the_planned_steps(
    shared_run: SharedRuns, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = shared_run("FedAvg", *TRAINS)
    told = summary(run)["privacy"]
    assert 5 < told["spent"]["epsilon"] <= 10  # two steps have the least noise that training may have
    assert told["mechanisms"][0]["steps"] == 2
    assert summary(run)["bytes_up"].keys() == {"Train"}
    for more, named in (((MORE,), "noise was spread over the steps"), ((), "clients' ledgers are in")):
        target = run if more else tmp_path / "elsewhere"
        with pytest.raises(SystemExit) as left:
            fit_other(target, "FedAvg", *TRAINS, *more, f"--ckpt_path={run}")
        assert left.value.code == 2
        assert named in capsys.readouterr().err


def test_nobody_weighs_more_than_others_by_what_it_says_of_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def boasting(client: int, model: StateDict, counts: Tensor, *more: Any) -> TrainReply:
        return TrainReply(client, model, counts * 2**20 if client == 0 else counts, *more)

    monkeypatch.setattr(private_worker, "TrainReply", boasting)
    told = summary(fit_other(tmp_path / "run", "FedAvg", *TRAINS))
    assert [each["client"] for each in told["failed"]] == [0]
    assert "client 0 failed: its reply was refused: class_counts: expected counts in 0..10" in capsys.readouterr().err


def test_a_run_of_objects_spreads_its_noise_over_the_planned_steps_too(tmp_path: Path) -> None:
    data = {"source": SklearnDigits(), "partition": DirichletPartition(4, 1), "batch_size": 32}
    given = {
        "net": LinearNet,
        "algorithm": FedAvg(),
        "trainer": {"accelerator": "cpu"},
        "privacy": Privacy(10, local_training="dp_sgd", shares=Shares(0, 0, 0, 1)),
        "ckpt_path": "auto",
    }
    for rounds, expected in ((1, nullcontext()), (2, pytest.raises(MosaicError, match="noise was spread over"))):
        schedule = mosaic.Schedule(rounds, local_steps=2, fine_tune_rounds=0)
        with expected:
            public = FederatedDataModule(**data, mean=[0.3], std=[0.38])
            mosaic.Federation(str(tmp_path / "run"), schedule).fit(data=public, **given)


def test_a_budget_that_fedavg_would_not_spend_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = SGD.replace("moments: 0, training: 1", "moments: 0.5, training: 0.5")
    with pytest.raises(SystemExit) as left:
        fit_other(tmp_path / "run", "FedAvg", *PUBLIC, f"--privacy={shared}", "--model.net.norm=group")
    assert left.value.code == 2
    assert "which FedAvg does not ask for, got 0.5 in all" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_clients_train_on_from_the_student_within_one_budget(tmp_path: Path) -> None:
    shares = "{counts: 0.05, means: 0.4, moments: 0.25, training: 0.3}"
    both = f"--privacy={{epsilon: 10, local_training: dp_sgd, shares: {shares}}}"
    run = fit_other(tmp_path / "run", "Mosaic", *SUMS, both, "--model.net.norm=group", MORE)
    told = summary(run)
    assert told["bytes_up"].keys() == {"Release", "Train"}
    assert {each["name"]: each["steps"] for each in told["privacy"]["mechanisms"]}["training"] == 4
    assert 9 < told["privacy"]["spent"]["epsilon"] <= 10


@for_each("executor", ["RanksExecutor", "SideBySideExecutor"])
@pytest.mark.slow
def test_other_executors_keep_the_budget_too(executor: str, tmp_path: Path) -> None:
    workers = ("--executor.workers=2",) if executor == "RanksExecutor" else ()
    run = fit_other(tmp_path / executor, "FedAvg", *TRAINS, f"--executor=mosaic.executors.{executor}", *workers)
    assert 5 < summary(run)["privacy"]["spent"]["epsilon"] <= 10


@pytest.mark.slow
def test_an_audit_asks_again_and_sees_the_same_bytes(tmp_path: Path) -> None:
    run = fit_other(tmp_path / "run", "Mosaic", *SUMS)
    books = {book: book.read_bytes() for book in run.glob("privacy/*/book.json")}
    main(["audit", str(run)])
    found = json.loads((run / "audit.json").read_text())
    assert found["same_run"]
    assert {each["attack"] for each in found["findings"]} == {"released sums, matched filter"}
    assert {book: book.read_bytes() for book in run.glob("privacy/*/book.json")} == books


def test_an_audit_neither_spends_nor_sees_what_was_not_sent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Faults on purpose meet the same requests, and ledgers of the run are looked at only."""
    lost = ('--executor.faults={"exception": 0.5}', "--federation.faults.quorum=0")
    run = fit_other(tmp_path / "run", "Mosaic", *SUMS, *lost)
    missing = {told["client"] for told in summary(run)["failed"]}
    assert 0 < len(missing) < 4
    before = {path: path.stat().st_mtime_ns for path in run.glob("privacy/**/*")}
    main(["audit", str(run)])
    found = json.loads((run / "audit.json").read_text())
    assert found["same_run"]
    assert {each["client"] for each in found["findings"]} == {0, 1, 2, 3} - missing
    assert {path: path.stat().st_mtime_ns for path in run.glob("privacy/**/*")} == before
    shutil.rmtree(run / "privacy")
    with pytest.raises(SystemExit) as left:
        main(["audit", str(run)])
    assert left.value.code == 2
    assert f"expected the privacy ledgers of {4 - len(missing)} clients" in capsys.readouterr().err


@pytest.mark.slow
def test_an_audit_needs_all_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mosaic.client.private_worker.KEPT", 1)
    run = fit_other(tmp_path / "run", "FedAvg", *TRAINS, "--federation.schedule.collaborative_rounds=4")
    with pytest.raises(SystemExit):
        main(["audit", str(run)])
    assert "got 8 answers that are gone" in capsys.readouterr().err
    assert not (run / "audit.json").exists()


@for_each(
    "flags, named",
    [
        (("--privacy.epsilon=10",), "data.mean, data.std"),
        ((*PUBLIC, "--privacy.epsilon=0"), "privacy.epsilon"),
        ((*PUBLIC, "--privacy.epsilon=10", "--algorithm=FedProx"), "got FedProx"),
        ((*PUBLIC, "--privacy.epsilon=10", "--algorithm=FedAvg"), "got FedAvg"),
        ((*PUBLIC, "--privacy.epsilon=10", "--algorithm.generation=Adversarial"), "got Mosaic"),
        (
            (*PUBLIC, f"--privacy={SGD}", "--algorithm=FedAvg", "--federation.schedule.local_epochs=1"),
            "federation.schedule.local_epochs",
        ),
        (
            (*PUBLIC, "--privacy={epsilon: 10, shares: {counts: 0.05, means: 0.95, moments: 0}}"),
            "privacy.shares: expected counts, means and moments above 0 with ClassGaussians",
        ),
    ],
)
def test_what_a_budget_cannot_cover_is_refused_before_an_image_is_read(
    flags: tuple[str, ...],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def read(_: object) -> None:
        raise AssertionError("images were read")

    monkeypatch.setattr(SklearnDigits, "load", read)
    with pytest.raises(SystemExit) as left:
        main(["fit", f"--config={DIGITS}", f"--federation.run_dir={tmp_path / 'run'}", *flags])
    assert left.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert named in said
    assert not (tmp_path / "run").exists()


@for_each(
    "flags, named",
    [
        ((*PUBLIC, "--privacy.epsilon=10", "--privacy.delta=0.01"), "privacy.delta"),
        ((*PUBLIC, "--privacy.epsilon=10", "--privacy.unit=patient"), "privacy.unit"),
        ((*PUBLIC, f"--privacy={SGD}", "--algorithm=FedAvg"), "BatchNorm"),
    ],
)
def test_what_only_the_images_can_tell_is_refused_before_anything_is_written(
    flags: tuple[str, ...], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["fit", f"--config={DIGITS}", f"--federation.run_dir={tmp_path / 'run'}", *flags])
    assert left.value.code == 2
    assert named in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_a_configuration_without_a_budget_stays_as_it_was(shared_run: SharedRuns) -> None:
    config = yaml.safe_load((shared_run("FedAvg") / "config.yaml").read_text())
    assert "privacy" not in config
