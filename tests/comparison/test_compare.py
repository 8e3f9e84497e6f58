"""``mosaic compare`` from end to end, on tiny runs."""

import csv
import json
import os
import shutil
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml

from mosaic.cli.main import main
from mosaic.comparison import runner
from mosaic.comparison.outcome import Outcome
from mosaic.comparison.request import RunRequest
from tests.small_runs import DIGITS, SharedRuns

TINY = {
    "data": {"partition": {"init_args": {"num_clients": 3, "alpha": 1.0}}},
    "federation": {"schedule": {"collaborative_rounds": 2, "fine_tune_rounds": 0, "local_steps": 2}},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("overlay") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


def compare(output: Path, tiny: Path, *more: str, failing: bool = False) -> list[dict[str, str]]:
    """Compare FedAvg with FedProx on two seeds, and see whether it ends as it should; return the rows of the table."""
    given = ["--algorithms", "fedavg,fedprox", "--seeds", "0,1", "--overlay", str(tiny), "--output", str(output)]
    with pytest.raises(SystemExit) if failing else nullcontext() as left:
        main(["compare", str(DIGITS), *given, *more])
    assert left is None or left.value.code == 1
    with (output / "comparison.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    output = tmp_path_factory.mktemp("compare") / "output"
    compare(output, tiny)
    return output


def test_it_leaves_tables_plots_and_outcomes(compared: Path) -> None:
    files = {path.name for path in compared.iterdir()}
    tables = {"comparison.md", "comparison.csv", "comparison.tex"}
    assert files - {".outcomes.jsonl.lock"} == {*tables, "rounds.png", "traffic.png", "outcomes.jsonl", "runs"}
    assert asked_for(compared) == [(name, seed) for name in ("fedavg", "fedprox") for seed in (0, 1)]


FEDAVG_0 = '{"algorithm": "fedavg", "seed": 0,'
"""How its line begins."""


def asked_for(output: Path) -> list[tuple[str, int]]:
    """Whose outcomes are there."""
    return [(outcome.algorithm, outcome.seed) for outcome in Outcome.read_all(output / "outcomes.jsonl")]


def test_its_figures_are_those_of_the_runs(compared: Path) -> None:
    with (compared / "comparison.csv").open(newline="") as file:
        rows = {row["algorithm"]: row for row in csv.DictReader(file)}
    shares = [summary(compared, "fedprox", seed)["test_accuracy"] for seed in (0, 1)]
    assert float(rows["fedprox"]["test accuracy"]) == pytest.approx(50 * sum(shares), abs=0.005)
    assert float(rows["fedavg"]["local steps"]) == 3 * 2 * 2
    assert float(rows["fedavg"]["seeds"]) == 2


@pytest.mark.parametrize(("asked", "missing"), [("Train", 1), ("Evaluate", 1), ("Generator", 0)])
def test_clients_who_have_judged_nothing_are_counted(compared: Path, tmp_path: Path, asked: str, missing: int) -> None:
    run = shutil.copytree(compared / "runs" / "fedavg" / "seed0", tmp_path / "run")
    facts = summary(compared, "fedavg", 0)
    failed = [{"round": 1, "client": 2, "asked": asked, "reason": "late"}]
    (run / "summary.json").write_text(json.dumps({**facts, "failed": failed}))
    found = Outcome.of(RunRequest("fedavg", 0, (), ()), run)
    assert found.summary["missing"] == missing
    assert (found.chosen is None) == bool(missing)


def summary(output: Path, algorithm: str, seed: int) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((output / "runs" / algorithm / f"seed{seed}" / "summary.json").read_text())
    return facts


def test_all_runs_share_everything_but_the_algorithm(compared: Path) -> None:
    def config(algorithm: str) -> dict[str, Any]:
        read: dict[str, Any] = yaml.safe_load((compared / "runs" / algorithm / "seed1" / "config.yaml").read_text())
        read.pop("algorithm")
        read["federation"].pop("run_dir")
        return read

    assert config("fedavg") == config("fedprox")
    assert config("fedavg")["seed_everything"] == config("fedavg")["data"]["seed"] == 1


def test_what_is_there_is_not_run_again(
    compared: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outcomes are enough: the runs themselves may be gone."""
    (tmp_path / "again").mkdir()
    shutil.copy(compared / "outcomes.jsonl", tmp_path / "again")
    monkeypatch.setattr(runner, "run_one", lambda *_: pytest.fail("a finished run was run again"))
    rows = compare(tmp_path / "again", tiny)
    assert [row["algorithm"] for row in rows] == ["fedavg", "fedprox"]
    assert (tmp_path / "again" / "comparison.csv").read_text() == (compared / "comparison.csv").read_text()


def test_an_interrupted_comparison_goes_on(
    compared: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished, asked = runner.run_one, []

    def stop_at_the_third(fit: runner.Fit, request: RunRequest, runs: Path) -> Outcome | runner.Failure:
        asked.append((request.algorithm, request.seed))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return finished(fit, request, runs)

    monkeypatch.setattr(runner, "run_one", stop_at_the_third)
    with pytest.raises(SystemExit) as stop:
        compare(tmp_path / "output", tiny)
    assert stop.value.code == 130
    rows = compare(tmp_path / "output", tiny)
    assert asked == [("fedavg", 0), ("fedavg", 1), ("fedprox", 0), ("fedprox", 0), ("fedprox", 1)]
    with (compared / "comparison.csv").open(newline="") as file:
        expected = list(csv.DictReader(file))
    without_time = [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
    assert without_time == [{key: value for key, value in row.items() if key != "seconds"} for row in expected]


def test_an_interrupted_run_goes_on_where_it_stopped(compared: Path, tiny: Path, tmp_path: Path) -> None:
    run = tmp_path / "output" / "runs" / "fedavg" / "seed0"
    shutil.copytree(compared / "runs" / "fedavg" / "seed0", run)
    (run / "summary.json").unlink()
    shutil.rmtree(run / "rounds" / "0002")
    compare(tmp_path / "output", tiny, "--algorithms", "fedavg", "--seeds", "0")
    left = sorted(path.name for path in (run / "rounds").iterdir())
    assert left == ["0001", "0002"]
    ours, theirs = summary(tmp_path / "output", "fedavg", 0), summary(compared, "fedavg", 0)
    assert ours["test_accuracy"] == theirs["test_accuracy"]
    assert ours["updates"] == theirs["updates"]


@pytest.mark.usefixtures("processes")
def test_processes_side_by_side_give_the_same_figures(compared: Path, tiny: Path, tmp_path: Path) -> None:
    compare(tmp_path / "output", tiny, "--processes", "2", "--algorithms", "fedavg")
    for seed in (0, 1):
        ours, theirs = summary(tmp_path / "output", "fedavg", seed), summary(compared, "fedavg", seed)
        assert ours["test_accuracy"] == theirs["test_accuracy"]


def end_the_process(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.usefixtures("processes")
def test_a_killed_process_is_a_row_with_a_reason(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "run_one", end_the_process)
    compare(tmp_path / "output", tiny, "--processes", "2", "--algorithms", "fedavg", failing=True)
    told = " ".join(capsys.readouterr().out.split())
    assert "was killed, perhaps for want of memory: fix that, or start again with fewer --processes" in told
    assert asked_for(tmp_path / "output") == []


def test_an_algorithm_that_cannot_run_says_why_and_the_rest_goes_on(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = tmp_path / "pool.yaml"
    pool.write_text(yaml.safe_dump({"clients": {"levels": [1.0, 0.5], "evaluate_whole": False}}))
    more = ("--algorithms", "prototype_head,fedavg", "--seeds", "0", "--overlay", f"{tiny},{pool}")
    rows = compare(tmp_path / "output", tiny, *more, failing=True)
    assert "clients.evaluate_whole: expected true, since prototypes are needed" in rows[0]["note"]
    assert float(rows[1]["test accuracy"]) > 0
    said = capsys.readouterr()
    assert "failed on seed 0" in said.out
    assert "1 of 2 runs have failed, the first of them prototype_head, seed 0 (clients.evaluate_whole: " in said.err
    assert asked_for(tmp_path / "output") == [("fedavg", 0)]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--algorithms", "fedfoo"], "there is no fedfoo"),
        (["--seeds", "0,x"], "--seeds: expected whole numbers"),
        (["--seeds=-1"], "--seeds: expected a whole number from 0 to 4294967295, got -1"),
        (["--seeds", "0,0"], "--seeds: expected different values"),
        (["--processes", "0"], "--processes: expected 1 or more, got 0"),
        (["--student_updates", "-1"], "--student_updates: expected 0 or more, got -1"),
        (["--overlay", "nowhere.yaml"], "nowhere.yaml: expected a configuration"),
    ],
)
def test_a_bad_request_is_one_line_and_nothing_is_run(
    more: list[str], message: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        compare(tmp_path / "output", tiny, *more)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    "trainer", [{"devices": 2}, {"devices": "auto"}, {"devices": [0, 1]}, {"num_nodes": 2}], ids=str
)
def test_runs_on_several_devices_are_refused_before_a_second_comparison_begins(
    trainer: dict[str, object], tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    several = tmp_path / "several.yaml"
    several.write_text(yaml.safe_dump({"trainer": trainer}))
    with pytest.raises(SystemExit) as stop:
        compare(tmp_path / "output", tiny, "--overlay", f"{tiny},{several}")
    assert stop.value.code == 2
    assert f"trainer.{next(iter(trainer))}: expected one device for each run" in capsys.readouterr().err
    assert not (tmp_path / "output").exists()


def test_an_outcome_of_another_request_is_refused(
    compared: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(compared / "outcomes.jsonl", tmp_path)
    before = (tmp_path / "outcomes.jsonl").read_text()
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({"data": {"batch_size": 16}}))
    with pytest.raises(SystemExit):
        compare(tmp_path, tiny, "--overlay", f"{tiny},{other}")
    assert "the outcome of another request for fedavg, seed 0" in capsys.readouterr().err
    assert (tmp_path / "outcomes.jsonl").read_text() == before


def test_what_a_refused_outcome_advises_helps(
    compared: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without its outcome alone the run would go on, as what it was."""
    output = tmp_path / "output"
    shutil.copytree(compared, output)
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({"data": {"batch_size": 16}}))
    more = ("--overlay", f"{tiny},{other}", "--algorithms", "fedavg", "--seeds", "0")
    with pytest.raises(SystemExit):
        compare(output, tiny, *more)
    file, folder = output / "outcomes.jsonl", output / "runs" / "fedavg" / "seed0"
    assert f"remove its line and move {folder} away" in capsys.readouterr().err
    others = [line for line in file.read_text().splitlines(keepends=True) if not line.startswith(FEDAVG_0)]
    assert len(others) == 3
    file.write_text("".join(others))
    before = (output / "comparison.md").read_text()
    compare(output, tiny, *more, failing=True)
    assert "changed: data.batch_size: take these back, move the folder away" in capsys.readouterr().err
    assert (output / "comparison.md").read_text() == before, "a table of failures alone replaces none"
    shutil.rmtree(folder)
    assert float(compare(output, tiny, *more)[0]["test accuracy"]) > 0


def test_reasons_and_names_are_text_and_not_markup(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own[v2].yaml").write_text(yaml.safe_dump({"algorithm": "mosaic.algorithms.FedAvg"}))
    reason = "pip install 'mosaic[ray]' [/data/cifar]"
    monkeypatch.setattr(
        runner, "run_one", lambda _, request, __: runner.Failure(request.algorithm, request.seed, reason)
    )
    compare(tmp_path / "output", tiny, "--algorithms", "own[v2].yaml", "--seeds", "0", failing=True)
    told = capsys.readouterr().out
    assert told.count(reason) == 2, "when it happens, and under the table"
    assert told.count("own[v2].yaml") >= 3, "also in the table's cells"


@pytest.fixture(scope="module")
def two_distillations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An overlay of two distilling rounds, with presets of Mosaic and its rivals that are over in seconds."""
    folder = tmp_path_factory.mktemp("two")
    mosaic = {
        "generation": {
            "class_path": "mosaic.generation.Adversarial",
            "init_args": {"steps": 3, "epochs": 0.0, "width": 4, "min_count": 1},
        },
        "teacher": "mosaic.teachers.Prior",
        "distillation": {"steps": 5, "pool_size": 32, "batch_size": 8},
    }
    synthesis = {"synthesis_steps": 3, "synthesis": {"width": 2, "batch_size": 8}, "learning": {"batch_size": 8}}
    tuning = {"tuning": {"iterations": 2, "batch_size": 8, "latent_dim": 4, "width": 2}}
    every = {"Mosaic": mosaic, **dict.fromkeys(["DENSE", "CoBoosting"], synthesis)}
    every |= dict.fromkeys(["FedFTG", "DFRD"], tuning)
    for name, settings in every.items():
        preset = {"algorithm": {"class_path": f"mosaic.algorithms.{name}", "init_args": settings}}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(preset))
    changes = {"fewer": {"distillation": {"steps": 4}}, "epochs": {"generation": {"init_args": {"epochs": 1}}}}
    for name, settings in changes.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"algorithm": {"init_args": settings}}))
    schedule = {**TINY["federation"]["schedule"], "collaborative_rounds": 3, "distill_rounds": [1, 3]}
    (folder / "overlay.yaml").write_text(yaml.safe_dump({**TINY, "federation": {"schedule": schedule}}))
    return folder


@pytest.mark.slow
def test_two_distilling_rounds_cost_every_method_what_they_cost_mosaic(
    two_distillations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(two_distillations)
    presets = "Mosaic.yaml,DENSE.yaml,CoBoosting.yaml,FedFTG.yaml,DFRD.yaml"
    rows = compare(tmp_path / "output", Path("overlay.yaml"), "--algorithms", presets, "--seeds", "0")
    assert [(float(row["student updates"]), float(row["generator updates"])) for row in rows] == [(10, 9)] * 5
    assert not any("budget" in row.get("note", "") for row in rows)
    outcomes = Outcome.read_all(tmp_path / "output" / "outcomes.jsonl")
    offered = {outcome.algorithm: outcome.summary["students"]["offered"] for outcome in outcomes}
    assert offered == {**dict.fromkeys(presets.split(","), 2), "FedFTG.yaml": 3, "DFRD.yaml": 3}
    page = (tmp_path / "output" / "comparison.md").read_text()
    assert "server-side budget: 10 student and 9 generator updates, as Mosaic.yaml spends" in page


@pytest.mark.slow
def test_a_variant_that_spends_something_else_says_so_unless_it_may(
    two_distillations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(two_distillations)
    given = ("--algorithms", "Mosaic.yaml,Mosaic.yaml+fewer.yaml", "--seeds", "0")
    rows = compare(tmp_path / "output", Path("overlay.yaml"), *given)
    assert ["8 student updates on seed 0, where the budget is 10" in row["note"] for row in rows] == [False, True]
    monkeypatch.setattr(runner, "run_one", lambda *_: pytest.fail("a finished run was run again"))
    rows = compare(tmp_path / "output", Path("overlay.yaml"), *given, "--own_budget", "Mosaic.yaml+fewer.yaml")
    assert not any("budget" in row.get("note", "") for row in rows)


def test_every_method_that_distils_is_told_the_same_budget_unless_it_may_have_its_own(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, list[str]] = {}

    def note(_: object, request: RunRequest, __: object) -> runner.Failure:
        told[request.algorithm] = [flag for flag in request.flags if "updates" in flag]
        return runner.Failure(request.algorithm, request.seed, "none")

    monkeypatch.setattr(runner, "run_one", note)
    given = ("--algorithms", "fedavg,dense,dfrd", "--own_budget", "dfrd", "--student_updates", "7")
    compare(tmp_path / "output", tiny, *given, "--generator_updates", "60", failing=True)
    flags = ["--algorithm.student_updates=7", "--algorithm.generator_updates=60"]
    assert told == {"fedavg": [], "dense": flags, "dfrd": []}


def test_clients_are_counted_as_fit_counts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An overlay of another partition keeps the number of clients."""
    monkeypatch.setattr(
        runner, "run_one", lambda _, request, __: runner.Failure(request.algorithm, request.seed, "none")
    )
    overlay = DIGITS.parent / "partitions" / "iid.yaml"
    compare(tmp_path / "output", overlay, "--algorithms", "mosaic,dense", "--seeds", "0", failing=True)
    assert (
        "600 student updates, as mosaic spends, and 6000 generator" in (tmp_path / "output/comparison.md").read_text()
    )


def test_what_cannot_be_counted_is_asked_for_only_where_somebody_is_told(
    two_distillations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Epochs are not the same number of updates for all clients, which matters to rivals that distil."""
    monkeypatch.chdir(two_distillations)
    monkeypatch.setattr(
        runner, "run_one", lambda _, request, __: runner.Failure(request.algorithm, request.seed, "none")
    )
    variant = "Mosaic.yaml+epochs.yaml"
    compare(tmp_path / "output", Path("overlay.yaml"), "--algorithms", f"{variant},fedavg", failing=True)
    assert "server-side budget" not in (tmp_path / "output" / "comparison.md").read_text()
    with pytest.raises(SystemExit):
        compare(tmp_path / "output", Path("overlay.yaml"), "--algorithms", f"{variant},DENSE.yaml")
    assert f"--generator_updates: {variant} counts the generators' training in epochs" in capsys.readouterr().err


def test_the_folder_of_a_run_is_left_alone(
    shared_run: SharedRuns, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shared_run("FedAvg")
    before = sorted(run.rglob("*"))
    for folders in ([f"--output={run}"], [f"--output={tmp_path / 'out'}", f"--runs={run}"]):
        with pytest.raises(SystemExit) as caught:
            main(["compare", str(tiny), "--algorithms=fedavg", *folders])
        assert caught.value.code == 2
        assert f"{run}: expected a folder of its own, got that of a run: choose another" in capsys.readouterr().err
    assert sorted(run.rglob("*")) == before
