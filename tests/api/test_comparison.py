"""Comparisons from Python are those of the command line."""

import multiprocessing
from pathlib import Path
from typing import NoReturn

import pandas
import pytest

import mosaic
from mosaic.algorithms import FedAvg
from tests.api.test_fitting import overrides
from tests.small_runs import DIGITS, TINY

SMALL = {key: value for key, value in overrides(*TINY).items() if not key.startswith("algorithm")}


def nested(flat: dict[str, object]) -> dict[str, object]:
    """Values by dotted key as sections within sections."""
    whole: dict[str, object] = {}
    for key, value in flat.items():
        *sections, last = key.split(".")
        inner: dict[str, object] = whole
        for section in sections:
            inner = inner.setdefault(section, {})  # type: ignore[assignment]
        inner[last] = value
    return whole


class Failing(FedAvg):
    """Fails where clients would train."""

    def round(self, *_: object) -> NoReturn:
        raise ValueError("not today")


def test_a_comparison_is_a_table_of_numbers_with_its_runs(tmp_path: Path) -> None:
    partition = {"class_path": "mosaic.data.DirichletPartition", "init_args": {"num_clients": 4, "alpha": 1}}
    small = nested({key: value for key, value in SMALL.items() if "partition" not in key})
    small["data"] = {"partition": partition}
    broken = tmp_path / "broken.yaml"
    broken.write_text(f"algorithm: {__name__}.Failing")
    found = mosaic.compare([DIGITS, small], ["fedavg", str(broken)], seeds=[3], output=tmp_path / "out")
    table, runs = found.table, found.runs
    assert list(table.index) == ["fedavg", str(broken)]
    assert table["test accuracy"].iloc[0] == pytest.approx(100 * runs["test_accuracy"].iloc[0], abs=0.01)
    assert pandas.isna(table["test accuracy"].iloc[1])
    assert found.run("fedavg", 3).summary["test_accuracy"] == runs["test_accuracy"].iloc[0]
    assert "not today" in found.failures[str(broken), 3]
    assert repr(found) == f"Comparison('{tmp_path / 'out'}', 1 runs, 1 failed)"
    assert found.plot.rounds().axes
    assert found.plot.traffic().axes
    for algorithm, seed, told in (("fedavg", 4, "expected one of fedavg 3"), (str(broken), 3, "failed: ")):
        with pytest.raises(mosaic.MosaicError, match=told):
            found.run(algorithm, seed)


def test_the_table_is_that_of_the_file(tmp_path: Path) -> None:
    """With notes on the budget, and columns that no row fills."""
    values = nested({**SMALL, "algorithm.init_args.distillation.steps": 3})
    given = {"student_updates": 7, "generator_updates": 0}
    found = mosaic.compare([DIGITS, values], ["config"], [0], output=tmp_path, **given)
    pandas.testing.assert_frame_equal(found.table, pandas.read_csv(tmp_path / "comparison.csv", index_col="algorithm"))
    assert found.table["note"].tolist() == ["3 student updates on seed 0, where the budget is 7"]
    assert found.table["p"].isna().all()
    assert f"configuration: {DIGITS}, values given in Python\n" in (tmp_path / "comparison.md").read_text()
    own = mosaic.compare([DIGITS, values], ["config"], [0], output=tmp_path / "own", own_budget=["config"], **given)
    assert own.table["note"].isna().all()


def test_a_run_is_that_of_the_table_whatever_shares_its_folder(tmp_path: Path) -> None:
    """The chosen run lies among the trials; an untuned comparison has left one of the same name beside it."""
    values, runs = nested({**SMALL, "federation.schedule.learning_rate": 0.001}), tmp_path / "runs"
    plain = mosaic.compare([DIGITS, values], ["fedavg"], seeds=[0], output=tmp_path / "plain", runs=runs)
    tune = "federation.schedule.learning_rate=0.1,0.2"
    tuned = mosaic.compare([DIGITS, values], ["fedavg"], seeds=[0], output=tmp_path / "tuned", runs=runs, tune=tune)
    for found in (plain, tuned):
        run, shown = found.run("fedavg", 0), found.runs.iloc[0]
        assert (run.summary["test_accuracy"], run.summary["rounds"]) == (shown["test_accuracy"], len(run.metrics))
    assert plain.run("fedavg", 0).path != tuned.run("fedavg", 0).path
    (file := tuned.run("fedavg", 0).path / "summary.json").write_text('{"test_accuracy": 0.5}')
    with pytest.raises(mosaic.MosaicError, match=f"expected that of the table, got another one in {file.parent}: "):
        tuned.run("fedavg", 0)


def test_a_bad_comparison_is_refused_before_it_runs(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = tmp_path_factory.mktemp("given") / "wrong.yaml"
    wrong.write_text("algorithm: {class_path: mosaic.algorithms.FedProx, init_args: {mu: -1}}")
    for given, told in (
        ({"algorithms": "fedavg"}, "algorithms: expected a list of names"),
        ({"algorithms": []}, "--algorithms: expected different values, at least one"),
        ({"algorithms": ["none"]}, "--algorithms: there is no none"),
        ({"seeds": "0,1"}, "seeds: expected a list of whole numbers"),
        ({"seeds": 3}, r"seeds: expected a list of whole numbers, as \[3\] or range\(3\), got 3"),
        ({"seeds": [0.5]}, "seeds: expected a list of whole numbers"),
        ({"seeds": [1, 1]}, "--seeds: expected different values"),
        ({"processes": 0}, "--processes: expected 1 or more"),
        ({"processes": 1.5}, "--processes: expected 1 or more, got 1.5"),
        ({"student_updates": "a"}, "--student_updates: expected 0 or more, got 'a'"),
        ({"partition_seed": -1}, "--partition_seed: expected 0 or more, got -1"),
        ({"tune": ["a=1,2"]}, "tune: expected text"),
        ({"tune": "a=1,2"}, "fedavg with a=1: --a: there is no such option"),
        ({"algorithms": ["fedavg", str(wrong)]}, "wrong.yaml: algorithm.mu: expected 0 or more, got -1"),
    ):
        with pytest.raises(mosaic.MosaicError, match=told):
            mosaic.compare(DIGITS, **{"algorithms": ["fedavg"], **given, "output": tmp_path / "out"})  # type: ignore[arg-type]
    with monkeypatch.context() as patched:  # in a process that reads a script without a guard once more
        patched.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
        with pytest.raises(mosaic.MosaicError, match="expected what a script does below `if __name__"):
            mosaic.compare(DIGITS, ["fedavg"], output=tmp_path / "out", processes=2)
    with pytest.raises(mosaic.MosaicError, match=r"none\.yaml"):
        mosaic.compare(tmp_path / "none.yaml")
    assert not any(tmp_path.iterdir())
