"""DENSE and Co-Boosting: FedAvg, bit for bit, where nothing is distilled, and a student of the ensemble where it is."""

import json
import re
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mosaic.algorithms import DENSE, CoBoosting
from mosaic.errors import MosaicError
from mosaic.messages import Declined, Executor, Reply, Request, StateDict, TrainReply
from mosaic.model_pool import ClientModels
from mosaic.nets import Blueprint
from mosaic.runs.snapshots import Snapshot
from mosaic.runs.tracking import SilentTracker, Tracker
from mosaic.server.cohort import Cohort
from mosaic.server.context import RoundContext, RoundPlan
from mosaic.server.state import ServerState
from mosaic.tasks.synthesis_settings import LearningSettings, SynthesisSettings
from mosaic.training.phases import PhaseRunner
from tests.cases import for_each
from tests.cli.test_main import refusal
from tests.small_runs import (
    DIGITS,
    FOUR_ROUNDS,
    REPOSITORY,
    TWO_ROUNDS,
    UNSEEN,
    SharedRuns,
    assert_same_run,
    dry_run,
    final_model,
    fit_arguments,
    fit_other,
    parsed,
    rows_without_time,
    stages,
)

BOTH = pytest.mark.parametrize("algorithm", ["DENSE", "CoBoosting"])
CO_BOOSTING_LATER = pytest.mark.parametrize("algorithm", ["DENSE", pytest.param("CoBoosting", marks=pytest.mark.slow)])
"""Where both do the same: Co-Boosting in the slow suite."""
SMALL = [
    "--algorithm.student_updates=3",
    "--algorithm.generator_updates=5",
    "--algorithm.synthesis_steps=2",
    "--algorithm.synthesis.batch_size=8",
    "--algorithm.synthesis.width=2",
    "--algorithm.learning.batch_size=8",
]


def run(path: Path, algorithm: str, *more: str) -> Path:
    return fit_other(path, algorithm, *SMALL, *more)


def updates(path: Path) -> dict[str, int]:
    return json.loads((path / "summary.json").read_text())["updates"]


@CO_BOOSTING_LATER
@pytest.mark.parametrize(
    "switch",
    [
        ["--federation.schedule.distill_rounds=[]"],
        pytest.param(["--algorithm.student_updates=0"], marks=pytest.mark.slow),
    ],
    ids=["no distilling round", "no student updates"],
)
def test_without_distillation_it_is_fedavg(
    algorithm: str, switch: list[str], shared_run: SharedRuns, tmp_path: Path
) -> None:
    ours = run(tmp_path / "ours", algorithm, *TWO_ROUNDS, *switch)
    theirs = shared_run("FedAvg", *TWO_ROUNDS, *(each for each in switch if "federation" in each))
    assert_same_run(ours, theirs)
    assert updates(ours) == updates(theirs) == {"local": 4 * 2 * 2}


@pytest.fixture(scope="session", params=["DENSE", "CoBoosting"])
def distilled(request: pytest.FixtureRequest, shared_run: SharedRuns) -> tuple[str, Path]:
    """One round that distils."""
    return request.param, shared_run(request.param, *SMALL, *UNSEEN)


def test_a_distilling_round_measures_every_stage(distilled: tuple[str, Path]) -> None:
    algorithm, path = distilled
    weighted = ["weighted ensemble"] if algorithm == "CoBoosting" else []
    assert list(stages(path)) == ["global before distillation", "logit ensemble", *weighted, "student"]
    summary = json.loads((path / "summary.json").read_text())
    assert summary["distilled"]
    assert summary["test_accuracy"] == summary["stages"]["student"]
    assert summary["seconds"]["distillation"] > 0


def test_updates_are_booked_as_they_are_spent(distilled: tuple[str, Path]) -> None:
    """Of five generator updates two syntheses of two steps are made; the fifth is left."""
    assert updates(distilled[1]) == {"local": 4 * 2, "student": 3, "generator": 4}


@CO_BOOSTING_LATER
def test_distilling_rounds_share_the_budget(algorithm: str, tmp_path: Path) -> None:
    """Two syntheses of two steps and three student updates are not multiplied by the two rounds that distil."""
    path = run(tmp_path / "run", algorithm, *FOUR_ROUNDS, "--federation.keep_snapshots=4")
    assert updates(path) == {"local": 4 * 2 * 4, "student": 3, "generator": 4}
    first = Snapshot.read(path / "rounds" / "0002").books.updates
    assert first == {"local": 2 * 2 * 4, "student": 1, "generator": 2}


@pytest.mark.slow
def test_a_distilling_round_for_which_nothing_is_left_is_fedavgs(shared_run: SharedRuns, tmp_path: Path) -> None:
    """One update in two distilling rounds falls into the last."""
    settings = (*FOUR_ROUNDS, "--algorithm.student_updates=1")
    ours, theirs = run(tmp_path / "ours", "DENSE", *settings), shared_run("FedAvg", *FOUR_ROUNDS)
    assert rows_without_time(ours)[:2] == rows_without_time(theirs)[:2]
    assert updates(ours) == {**updates(theirs), "student": 1, "generator": 2}


def test_the_average_before_distillation_is_fedavgs(distilled: tuple[str, Path], shared_run: SharedRuns) -> None:
    theirs = json.loads((shared_run("FedAvg", *UNSEEN) / "summary.json").read_text())
    assert stages(distilled[1])["global before distillation"] == theirs["test_accuracy"]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_bit_for_bit(distilled: tuple[str, Path], tmp_path: Path) -> None:
    algorithm, path = distilled
    again, other = (
        run(tmp_path / "again", algorithm, *UNSEEN),
        run(tmp_path / "other", algorithm, *UNSEEN, "--seed_everything=1"),
    )
    assert_same_run(path, again)
    assert not torch.equal(final_model(path)["net.head.weight"], final_model(other)["net.head.weight"])


SINGLE = (
    *("learning.temperature=1", "synthesis.label_weight=0", "synthesis.initialization=dcgan", "learning.momentum=0"),
    *("learning.view.padding=1", "learning.pixel_step=0.03"),
)
"""Of which the formulas' own tests tell as much."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "switch",
    [
        "synthesis.statistics_weight=0",
        "synthesis.divergence_weight=1000",
        *SINGLE,
        "learning={pixel_step: 0.03, pixel_direction: random}",
    ],
)
def test_every_switch_makes_a_difference(switch: str, shared_run: SharedRuns, tmp_path: Path) -> None:
    """Four steps, since the first one's images are the same whatever the loss; much divergence, as there is little."""
    four = ["synthesis_steps=4", "generator_updates=8", "learning.pixel_step=0"]
    common = [*SMALL, *UNSEEN, *(f"--algorithm.{setting}" for setting in four)]
    ours = final_model(fit_other(tmp_path / "run", "CoBoosting", *common, f"--algorithm.{switch}"))
    theirs = final_model(shared_run("CoBoosting", *common))
    assert all(tensor.isfinite().all() for tensor in ours.values())
    assert not torch.equal(ours["net.head.weight"], theirs["net.head.weight"])


@CO_BOOSTING_LATER
@pytest.mark.parametrize(
    "clients",
    [
        pytest.param("--clients.levels=[1,0.5]", marks=pytest.mark.slow),
        '--clients.models=["global",{"class_path":"mosaic.nets.MLP"}]',
    ],
    ids=["widths", "architectures"],
)
def test_clients_with_different_models_teach_one_student(algorithm: str, clients: str, tmp_path: Path) -> None:
    path = run(tmp_path / "run", algorithm, clients)
    assert all(tensor.isfinite().all() for tensor in final_model(path).values())
    assert {"logit ensemble", "student"} <= stages(path).keys()


def test_they_work_with_every_pool() -> None:
    assert DENSE.supports == CoBoosting.supports == {"same", "widths", "architectures"}


@CO_BOOSTING_LATER
def test_images_are_shown(algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: dict[str, tuple[int, ...]] = {}
    monkeypatch.setattr(Tracker, "images", lambda self, name, images: shown.update({name: tuple(images.shape)}))
    run(tmp_path / "run", algorithm, *UNSEEN)
    assert shown == {"synthesis/samples": (16, 1, 8, 8)}


# one round, by hand


class Uploading(Executor):
    """Clients that reply with prepared models."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = replies

    def map(self, requests: Iterable[Request], deadline: float | None = None) -> Any:
        assert len(list(requests)) == len(self.replies)
        return iter(self.replies)


def uploads(blueprint: Blueprint) -> list[TrainReply]:
    counts, metrics = (
        [torch.tensor([4, 1, 1 + 6 * client]) for client in (0, 1)],
        {"loss": 0.0, "steps": 1, "validation_images": 0},
    )
    return [TrainReply(client, blueprint.initial(client), counts[client], metrics, {}) for client in (0, 1)]


def play(
    algorithm: DENSE, blueprint: Blueprint, phases: PhaseRunner, replies: list[Any], distils: bool = True
) -> tuple[ServerState, dict[str, nn.Module]]:
    """The state after a round, and what was measured in it."""
    plan, seen = RoundPlan(1, 2, (0, 1), 1, 0.0, 0.1, (1, 1) if distils else None), dict[str, nn.Module]()
    pool = ClientModels().pool(blueprint, 2, seed=0)
    context = RoundContext(
        *(plan, 0, pool, phases, lambda module, *names: seen.update(dict.fromkeys(names, module))),
        *(SilentTracker(), lambda _: nullcontext(), lambda *_: None),
    )
    state = ServerState(blueprint.initial(9), distilled=not distils, tensors={"kept": torch.ones(1)})
    return algorithm.round(state, Cohort(Uploading(*replies), plan, pool), context), seen


def small(algorithm: type[DENSE] = DENSE, **changes: Any) -> DENSE:
    settings = {"student_updates": 2, "generator_updates": 2, "synthesis_steps": 1}
    base = algorithm()
    synthesis, learning = replace(base.synthesis, batch_size=8, width=2), replace(base.learning, batch_size=8)
    return algorithm(**{**settings, "synthesis": synthesis, "learning": learning, **changes})


def test_the_logit_ensemble_is_the_mean_of_the_uploads_logits(blueprint: Blueprint, phases: PhaseRunner) -> None:
    replies = uploads(blueprint)
    _, seen = play(small(guarded=False), blueprint, phases, replies)
    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    experts = [blueprint.build(reply.model).eval() for reply in replies]
    with torch.no_grad():
        expected = np.mean([expert(images).numpy() for expert in experts], axis=0)
        np.testing.assert_allclose(seen["logit ensemble"](images), expected, rtol=1e-4, atol=1e-5)


def test_the_weighted_ensemble_has_weights_of_its_own(blueprint: Blueprint, phases: PhaseRunner) -> None:
    _, seen = play(small(CoBoosting, guarded=False), blueprint, phases, uploads(blueprint))
    weights = seen["weighted ensemble"].gate.weights
    assert (weights - 0.5).abs().tolist() == pytest.approx([0.0199, 0.0199], abs=1e-6) or (
        (weights - 0.5).abs().tolist() == pytest.approx([0.0001, 0.0001], abs=1e-6)
    ), "two steps of 0.01 and 0.0099, there and on or there and back"


@pytest.mark.parametrize(("guarded", "accepted"), [(True, True), (True, False), (False, False)])
def test_a_student_replaces_the_average_if_the_clients_agree_or_are_not_asked(
    blueprint: Blueprint, phases: PhaseRunner, monkeypatch: pytest.MonkeyPatch, guarded: bool, accepted: bool
) -> None:
    asked: list[tuple[StateDict, StateDict]] = []

    def answer(old: StateDict, new: StateDict, what: str, *_: object) -> bool:
        assert what == "student"
        asked.append((old, new))
        return accepted

    monkeypatch.setattr("mosaic.server.acceptance.accepts", answer)
    replies = uploads(blueprint)
    state, seen = play(small(guarded=guarded), blueprint, phases, replies)
    average = (6 * replies[0].model["head.bias"] + 12 * replies[1].model["head.bias"]) / 18
    taken = accepted or not guarded
    assert state.distilled == taken
    assert torch.equal(state.model["head.bias"], seen["student"].head.bias) == taken
    assert torch.allclose(state.model["head.bias"], average) != taken
    assert len(asked) == guarded
    assert "kept" in state.tensors


def test_a_later_round_still_knows_that_it_fine_tunes_a_student(blueprint: Blueprint, phases: PhaseRunner) -> None:
    state, seen = play(small(), blueprint, phases, uploads(blueprint), distils=False)
    assert state.distilled
    assert "kept" in state.tensors
    assert seen == {}


def test_without_an_upload_nothing_changes(
    blueprint: Blueprint, phases: PhaseRunner, caplog: pytest.LogCaptureFixture
) -> None:
    state, seen = play(small(), blueprint, phases, [Declined(client, "asleep") for client in (0, 1)])
    assert torch.equal(state.model["head.bias"], blueprint.initial(9)["head.bias"])
    assert not state.distilled
    assert seen == {}
    assert "no client has uploaded a model, so nothing is distilled" in caplog.text


# settings


FEW = (
    "generator_updates: expected at least 30, the algorithm.synthesis_steps of one batch of images, got 29: raise it, "
    "or set algorithm.student_updates 0 for FedAvg"
)


@for_each(
    ("make", "says"),
    [
        (partial(DENSE, student_updates=-1), "student_updates: expected 0 or more, got -1"),
        (partial(DENSE, synthesis_steps=0), "synthesis_steps: expected a number above 0, got 0"),
        (partial(DENSE, generator_updates=29), FEW),
        (partial(CoBoosting, generator_updates=29), FEW),
        (partial(SynthesisSettings, batch_size=1), "synthesis.batch_size: expected at least 2 images, since one has"),
        (partial(LearningSettings, momentum=1.0), "learning.momentum: expected a value in [0, 1), got 1.0"),
    ],
)
def test_a_setting_out_of_range_is_refused(make: Callable[[], object], says: str) -> None:
    with pytest.raises(MosaicError, match=f"^algorithm.{re.escape(says)}"):
        make()


def test_it_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, *fit_arguments(tmp_path / "run", "DENSE", "--algorithm.generator_updates=29"))
    assert line == f"mosaic: error: algorithm.{FEW}"
    assert not (tmp_path / "run").exists()


def test_no_generator_is_needed_without_a_student() -> None:
    assert DENSE(student_updates=0, generator_updates=0).syntheses == 0


ABOVE = [
    pytest.param(name, marks=() if name in ("nothing", "co_boosting_released") else pytest.mark.slow)
    for name in ("nothing", "mosaic_paper", "dense_released", "co_boosting_released", "co_boosting", "dense")
]
"""Presets that another one is stacked on."""


def preset_of(name: str) -> Path:
    return REPOSITORY / "configs" / "algorithms" / f"{name}.yaml"


@pytest.mark.parametrize("before", ABOVE)
@pytest.mark.parametrize(("preset", "algorithm"), [("dense", "DENSE"), ("co_boosting", "CoBoosting")])
def test_a_preset_is_what_the_algorithm_does_anyway(preset: str, algorithm: str, before: str) -> None:
    stack = [preset_of(name) for name in (before, preset) if name != "nothing"]
    plain = parsed(DIGITS, f"--algorithm=mosaic.algorithms.{algorithm}")
    assert parsed(DIGITS, *stack)["algorithm"] == plain["algorithm"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dense_released", "co_boosting_released"])
def test_a_released_preset_spends_what_its_code_does_and_runs_dry(name: str, tmp_path: Path) -> None:
    settings = parsed(DIGITS, preset_of(name))["algorithm"]["init_args"]
    assert sum(range(1, 201)) == settings["student_updates"]
    assert settings["generator_updates"] == 200 * settings["synthesis_steps"]
    flags = [f"--config={preset_of(name)}", f"--federation.run_dir={tmp_path}/run"]
    assert dry_run("fit", f"--config={DIGITS}", *flags) == {"ClassificationTask", "PoolSynthesisTask"}


def test_co_boosting_differs_from_dense_in_what_the_paper_says_and_nothing_else() -> None:
    ours, theirs = CoBoosting(), DENSE()
    assert ours.synthesis == replace(
        SynthesisSettings(), divergence_temperature=3.0, only_disagreeing=False, mean_statistics=True, hard_labels=True
    )
    assert ours.learning == replace(LearningSettings(), temperature=4.0, pixel_step=8 / 255)
    assert (ours.reweighing.step, ours.reweighing.decay, theirs.reweighing.step) == (0.01, 0.99, 0)
    budget = ("student_updates", "synthesis_steps", "syntheses", "guarded")
    assert [getattr(ours, name) for name in budget] == [getattr(theirs, name) for name in budget]
