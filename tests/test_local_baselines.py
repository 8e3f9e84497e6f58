"""Baselines that change the local loss: FedAvg, bit for bit, where the change vanishes, and only there."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from mosaic.algorithms import FedAvg, FedProx, FedRS, FedVLS
from mosaic.errors import MosaicError
from tests.cases import for_each
from tests.cli.test_main import refusal
from tests.small_runs import TWO_ROUNDS, SharedRuns, assert_same_run, final_model, fit_arguments, fit_other

WIDTHS = "--clients.levels=[1,0.5,0.5,0.25]"
FEW_CLASSES = "--data.partition.alpha=0.05"
"""Clients that lack classes, which every one of these objectives but FedProx' is about."""


def run(path: Path, algorithm: str, *more: str) -> Path:
    return fit_other(path, algorithm, FEW_CLASSES, *TWO_ROUNDS, *more)


@pytest.fixture
def averaged(shared_run: SharedRuns) -> Path:
    return shared_run("FedAvg", FEW_CLASSES, *TWO_ROUNDS)


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        ("FedProx", ["mu=0"]),
        ("FedRS", ["alpha=1"]),
        ("FedVLS", ["suppression=0", "distillation=0", "adjust_prior=false"]),
    ],
    ids=["FedProx", "FedRS", "FedVLS"],
)
def test_a_baseline_whose_difference_vanishes_is_fedavg(
    algorithm: str, settings: list[str], averaged: Path, tmp_path: Path
) -> None:
    ours = run(tmp_path / "run", algorithm, *(f"--algorithm.{setting}" for setting in settings))
    assert_same_run(ours, averaged)


def test_fedvls_without_its_terms_is_fedavg_with_prior_adjustment(averaged: Path, tmp_path: Path) -> None:
    ours = run(tmp_path / "fedvls", "FedVLS", "--algorithm.suppression=0", "--algorithm.distillation=0")
    theirs = run(tmp_path / "fedavg", "FedAvg", "--algorithm.objective=mosaic.client.objectives.PriorAdjusted")
    assert_same_run(ours, theirs)
    assert not torch.equal(final_model(ours)["net.head.weight"], final_model(averaged)["net.head.weight"])


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        ("FedProx", []),
        ("FedRS", []),
        ("FedVLS", []),
        pytest.param("FedVLS", ["suppression=0", "adjust_prior=false"], marks=pytest.mark.slow),
        pytest.param("FedVLS", ["distillation=0", "adjust_prior=false"], marks=pytest.mark.slow),
    ],
    ids=["FedProx", "FedRS", "FedVLS", "FedVLS' distillation", "FedVLS' suppression"],
)
def test_a_baseline_makes_a_difference(algorithm: str, settings: list[str], averaged: Path, tmp_path: Path) -> None:
    path = run(tmp_path / "run", algorithm, *(f"--algorithm.{setting}" for setting in settings))
    ours, theirs = final_model(path), final_model(averaged)
    assert all(tensor.isfinite().all() for tensor in ours.values())
    for name in ("net.head.weight", "net.head.bias"):
        assert not torch.equal(ours[name], theirs[name])


@pytest.mark.parametrize(
    ("algorithm", "objective", "settings"),
    [
        pytest.param("FedProx", "Proximal", ["mu=0.5"], marks=pytest.mark.slow),
        pytest.param("FedRS", "RestrictedSoftmax", ["alpha=0.3"], marks=pytest.mark.slow),
        ("FedVLS", "VacantClass", ["suppression=0.1", "distillation=0.3", "epsilon=1"]),
    ],
    ids=["FedProx", "FedRS", "FedVLS"],
)
def test_mosaic_takes_the_same_objective(algorithm: str, objective: str, settings: list[str], tmp_path: Path) -> None:
    own = [f"--algorithm.{setting}" for setting in settings]
    baseline = final_model(run(tmp_path / "baseline", algorithm, *own))
    chosen = f"--algorithm.objective=mosaic.client.objectives.{objective}"
    under = [f"--algorithm.objective.{setting}" for setting in settings]
    averaging = ("--federation.schedule.distill_rounds=[]", "--algorithm.new_head=false")
    ours = final_model(run(tmp_path / "mosaic", "Mosaic", chosen, *under, *averaging))
    assert all(torch.equal(ours[name], baseline[name]) for name in baseline)


@pytest.mark.slow
def test_a_strong_proximal_term_keeps_clients_near(tmp_path: Path) -> None:
    """At rate 0.01 and mu 80, a step takes back 0.8 of what the steps before it have moved."""
    steps, rate = "--federation.schedule.local_steps=10", "--federation.schedule.learning_rate=0.01"
    start, free, held = (
        final_model(fit_other(tmp_path / name, "FedProx", FEW_CLASSES, steps, *more))["net.head.weight"]
        for name, *more in (
            ("start", "--federation.schedule.learning_rate=1e-30"),
            ("free", "--algorithm.mu=0", rate),
            ("held", "--algorithm.mu=80", rate),
        )
    )
    assert 0 < (held - start).norm() < 0.5 * (free - start).norm()


@pytest.mark.parametrize(
    "algorithm", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("FedProx", "FedRS")), "FedVLS"]
)
def test_sub_models_are_trained_with_it_too(algorithm: str, shared_run: SharedRuns, tmp_path: Path) -> None:
    ours = final_model(run(tmp_path / "run", algorithm, WIDTHS))
    theirs = final_model(shared_run("FedAvg", FEW_CLASSES, *TWO_ROUNDS, WIDTHS))
    assert all(tensor.isfinite().all() for tensor in ours.values())
    assert not torch.equal(ours["net.head.weight"], theirs["net.head.weight"])


def test_they_work_with_the_pools_that_fedavg_works_with() -> None:
    assert {FedProx.supports, FedRS.supports, FedVLS.supports} == {FedAvg.supports}


@for_each(
    ("make", "says"),
    [
        (partial(FedProx, mu=-0.1), "mu: expected 0 or more, got -0.1"),
        (partial(FedRS, alpha=-0.1), "alpha: expected a share in [0, 1], got -0.1"),
        (partial(FedRS, alpha=1.1), "alpha: expected a share in [0, 1], got 1.1"),
        (partial(FedVLS, suppression=-1.0), "suppression: expected 0 or more, got -1.0"),
        (partial(FedVLS, distillation=-1.0), "distillation: expected 0 or more, got -1.0"),
        (partial(FedVLS, epsilon=0.0), "epsilon: expected a number above 0, got 0.0"),
    ],
)
def test_a_setting_out_of_range_is_refused(make: Callable[[], FedAvg], says: str) -> None:
    with pytest.raises(MosaicError, match=f"^algorithm.{re.escape(says)}$"):
        make()


def test_it_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, *fit_arguments(tmp_path / "run", "FedVLS", "--algorithm.epsilon=0"))
    assert line == "mosaic: error: algorithm.epsilon: expected a number above 0, got 0.0"
    assert not (tmp_path / "run").exists()
