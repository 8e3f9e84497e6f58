"""Whole runs of FedFTG and DFRD: FedAvg where they do nothing, a generator that survives, books that add up."""

import itertools
import re
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from mosaic.algorithms import DFRD, FedAvg, FedFTG, fedftg
from mosaic.algorithms.dfrd import DFRDObjective
from mosaic.algorithms.fedftg import FedFTGObjective
from mosaic.cli.main import main
from mosaic.errors import MosaicError
from mosaic.messages import TrainReply
from mosaic.nets import Blueprint
from mosaic.nets.dcgan import Generator
from mosaic.runs.snapshots import Snapshot
from mosaic.server.context import RoundContext, RoundPlan
from mosaic.server.kept_generator import load_generator
from mosaic.server.state import ServerState
from mosaic.tasks.generator_distillation import Conditions, GeneratorDistillationSettings
from mosaic.training.dry_run import DryRun
from tests.cases import for_each
from tests.cli.test_main import refusal
from tests.small_runs import (
    DIGITS,
    FOUR_ROUNDS,
    REPOSITORY,
    SharedRuns,
    assert_same_run,
    dry_run,
    final_model,
    fit_arguments,
    fit_other,
    parsed,
    run_and_die,
    same,
    stages,
    summary,
    with_killer,
)

METHODS = ["FedFTG", "DFRD"]
DFRD_ALONE = [pytest.param("FedFTG", marks=pytest.mark.slow), "DFRD"]
"""In the fast suite, of what both inherit."""
BUDGET = ["--algorithm.student_updates=10", "--algorithm.generator_updates=13"]
SMALL = [
    *FOUR_ROUNDS,
    *BUDGET,
    "--algorithm.tuning.iterations=2",
    "--algorithm.tuning.batch_size=8",
    "--algorithm.tuning.latent_dim=4",
    "--algorithm.tuning.width=2",
    "--federation.keep_snapshots=4",
]
"""Four rounds of two or three student and three or four generator updates."""
PRESETS = REPOSITORY / "configs" / "algorithms"


def run(path: Path, algorithm: str, *more: str) -> Path:
    return fit_other(path, algorithm, *SMALL, *more)


@pytest.fixture(scope="session")
def averaged(shared_run: SharedRuns) -> Path:
    return shared_run("FedAvg", *FOUR_ROUNDS, "--federation.keep_snapshots=4")


@pytest.fixture(scope="session", params=METHODS)
def straight(request: pytest.FixtureRequest, shared_run: SharedRuns) -> tuple[str, Path]:
    """An uninterrupted run in which every distilled model is taken, and its method."""
    return request.param, shared_run(request.param, *SMALL, "--algorithm.guarded=false")


def kept(path: Path, round: int, prefix: str = "generator.") -> dict[str, Tensor]:
    """What the server remembers of the generator after a round."""
    tensors = Snapshot.read(path / "rounds" / f"{round:04d}").server.tensors
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


@pytest.mark.parametrize("algorithm", METHODS)
def test_without_student_updates_it_is_fedavg(algorithm: str, averaged: Path, tmp_path: Path) -> None:
    ours = run(tmp_path / "run", algorithm, "--algorithm.student_updates=0")
    assert_same_run(ours, averaged)
    assert summary(ours)["updates"] == summary(averaged)["updates"]


def test_a_round_without_student_updates_trains_the_generator_alone(averaged: Path, tmp_path: Path) -> None:
    """One update in four rounds falls into the last; none of the generator's is left out."""
    ours = run(tmp_path / "run", "FedFTG", "--algorithm.student_updates=1", "--algorithm.guarded=false")
    models = [[Snapshot.read(path / "rounds" / f"{n:04d}").server.model for n in (3, 4)] for path in (ours, averaged)]
    assert same(models[0][0], models[1][0])
    assert not same(models[0][1], models[1][1])
    assert not same(kept(ours, 2), kept(ours, 3))
    assert summary(ours)["updates"]["student"] == 1
    assert summary(ours)["updates"]["generator"] == 13


def test_it_makes_a_difference(straight: tuple[str, Path], averaged: Path) -> None:
    ours = final_model(straight[1])
    assert all(tensor.isfinite().all() for tensor in ours.values())
    assert not torch.equal(ours["net.head.weight"], final_model(averaged)["net.head.weight"])


def test_the_books_hold_what_was_asked_for(straight: tuple[str, Path], averaged: Path) -> None:
    local = summary(averaged)["updates"]["local"]
    assert summary(straight[1])["updates"] == {"local": local, "generator": 13, "student": 10}


def test_rounds_stay_collaborative(straight: tuple[str, Path]) -> None:
    assert summary(straight[1])["distilled"] is False


def test_every_stage_of_the_last_round_is_measured(straight: tuple[str, Path]) -> None:
    path = straight[1]
    assert list(stages(path)) == ["global before distillation", "plain ensemble", "distilled model"]
    assert stages(path)["distilled model"] == summary(path)["test_accuracy"]


def test_samples_and_mean_losses_are_shown(straight: tuple[str, Path]) -> None:
    events = EventAccumulator(str(straight[1] / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    assert [event.step for event in events.Images("synthesis/samples")] == [4]
    assert [event.step for event in events.Scalars("server/distillation_student")] == [1, 2, 3, 4]


def test_the_generator_goes_on_from_round_to_round(straight: tuple[str, Path]) -> None:
    path = straight[1]
    rounds = [kept(path, round, "generator.latest.") for round in (1, 2, 3, 4)]
    assert {frozenset(tensors) for tensors in rounds} == {frozenset(rounds[0])}
    for before, after in itertools.pairwise(rounds):
        moved = [(after[name] - before[name]).abs().mean() for name in after if name.endswith("weight")]
        assert all(0 < step < 0.05 for step in moved)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", DFRD_ALONE)
def test_a_generator_that_does_not_learn_stays_the_same_for_all_rounds(algorithm: str, tmp_path: Path) -> None:
    path = run(tmp_path / "run", algorithm, "--algorithm.generator_updates=0")
    assert same(kept(path, 1, "generator.latest."), kept(path, 4, "generator.latest."))
    assert summary(path)["updates"]["generator"] == 0


@pytest.mark.slow
def test_a_run_that_goes_on_after_round_2_is_the_uninterrupted_one(straight: tuple[str, Path], tmp_path: Path) -> None:
    algorithm, path = straight
    snapshot = path / "rounds" / "0002"
    again = run(tmp_path / "branch", algorithm, "--algorithm.guarded=false", f"--ckpt_path={snapshot}")
    assert_same_run(again, path)
    assert same(kept(again, 4), kept(path, 4))


@pytest.mark.slow
@pytest.mark.usefixtures("processes")
def test_a_run_that_is_killed_while_distilling_goes_on_bit_for_bit(shared_run: SharedRuns, tmp_path: Path) -> None:
    """Of DFRD, which remembers all that FedFTG does and more."""
    unguarded = (*SMALL, "--algorithm.guarded=false")
    arguments = fit_arguments(tmp_path / "killed", "DFRD", *unguarded, with_killer("GeneratorDistillationTask", 3))
    run_and_die(arguments)
    assert not (tmp_path / "killed" / "global.ckpt").exists()
    main([*arguments, "--ckpt_path=auto"])
    straight = shared_run("DFRD", *unguarded)
    assert_same_run(tmp_path / "killed", straight)
    assert same(kept(tmp_path / "killed", 4), kept(straight, 4))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run(straight: tuple[str, Path], tmp_path: Path) -> None:
    algorithm, path = straight
    assert_same_run(run(tmp_path / "again", algorithm, "--algorithm.guarded=false"), path)


def test_dfrds_average_follows_the_generator_with_its_decay(tmp_path: Path) -> None:
    """``e_t = 3/4 e_(t-1) + 1/4 theta_t`` from nothing, in the order of the rounds."""
    path = run(tmp_path / "run", "DFRD", "--algorithm.average_decay=0.75")
    name = "layers.0.weight"
    expected = torch.zeros(())
    for round in (1, 2, 3, 4):
        expected = 0.75 * expected + 0.25 * kept(path, round, "generator.latest.")[name]
        torch.testing.assert_close(kept(path, round, "generator.average.")[name], expected)
        assert int(kept(path, round)["rounds"]) == round


@pytest.mark.slow
def test_dfrds_average_feeds_the_student_from_the_second_round_on(tmp_path: Path) -> None:
    one, other = (
        run(tmp_path / share, "DFRD", f"--algorithm.average_share={share}", "--algorithm.guarded=false")
        for share in ("0", "0.5")
    )
    models = [[Snapshot.read(path / "rounds" / f"{n:04d}").server.model for n in (1, 2)] for path in (one, other)]
    assert same(models[0][0], models[1][0])
    assert not same(models[0][1], models[1][1])


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", DFRD_ALONE)
def test_the_clients_validation_images_refuse_a_ruined_model(
    algorithm: str, shared_run: SharedRuns, tmp_path: Path
) -> None:
    ruin = ["--algorithm.tuning.student_learning_rate=1000", "--data.validation_share=0.3"]
    ours = run(tmp_path / "ours", algorithm, *ruin)
    theirs = shared_run("FedAvg", *FOUR_ROUNDS, ruin[1])
    assert same(final_model(ours), final_model(theirs))
    assert summary(ours)["updates"]["student"] == 10
    assert stages(ours)["distilled model"] != summary(ours)["test_accuracy"]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", DFRD_ALONE)
def test_sub_models_of_different_widths_judge_too(algorithm: str, shared_run: SharedRuns, tmp_path: Path) -> None:
    widths = ["--clients.levels=[1,0.5,0.5,0.25]", "--algorithm.guarded=false"]
    ours = final_model(run(tmp_path / "ours", algorithm, *widths))
    theirs = final_model(shared_run("FedAvg", *FOUR_ROUNDS, widths[0]))
    assert all(tensor.isfinite().all() for tensor in ours.values())
    assert not torch.equal(ours["net.head.weight"], theirs["net.head.weight"])


def test_they_work_with_the_pools_that_fedavg_works_with() -> None:
    assert {FedFTG.supports, DFRD.supports} == {FedAvg.supports}


@for_each(
    ("make", "says"),
    [
        (partial(FedFTG, student_updates=-1), "student_updates: expected 0 or more, got -1"),
        (partial(FedFTG, generator_updates=-1), "generator_updates: expected 0 or more, got -1"),
        (partial(FedFTG, diversity_weight=-1.0), "diversity_weight: expected 0 or more, got -1.0"),
        (partial(FedFTG, classification_weight=-1.0), "classification_weight: expected 0 or more, got -1.0"),
        (partial(GeneratorDistillationSettings, iterations=0), "tuning.iterations: expected a number above 0, got 0"),
        (partial(DFRD, student_updates=-1), "student_updates: expected 0 or more, got -1"),
        (partial(DFRD, transfer_weight=-1.0), "transfer_weight: expected 0 or more, got -1.0"),
        (partial(DFRD, average_share=1.5), "average_share: expected a share in [0, 1], got 1.5"),
        (partial(DFRD, average_decay=1.0), "average_decay: expected a value in [0, 1), got 1.0"),
    ],
)
def test_a_setting_out_of_range_is_refused(make: Callable[[], object], says: str) -> None:
    with pytest.raises(MosaicError, match=f"^algorithm.{re.escape(says)}$"):
        make()


def test_it_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, *fit_arguments(tmp_path / "run", "FedFTG", "--algorithm.tuning.iterations=0"))
    assert line == "mosaic: error: algorithm.tuning.iterations: expected a number above 0, got 0"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("algorithm", METHODS)
def test_a_generator_that_has_diverged_is_not_kept(
    algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It spoils the student of one round; the next begins with that of the round before."""
    train = FedFTG._train

    def diverging(method: FedFTG, generator: Generator, student: Any, *more: Any) -> None:
        train(method, generator, student, *more)
        if cast(RoundContext, more[-1]).plan.round == 2:
            next(generator.parameters()).data.fill_(torch.nan)

    monkeypatch.setattr(FedFTG, "_train", diverging)
    ours = run(tmp_path / "run", algorithm)
    assert "round 2: the server's generator diverged" in capsys.readouterr().err
    assert same(kept(ours, 1), kept(ours, 2))
    assert not same(kept(ours, 2), kept(ours, 3))
    assert all(tensor.isfinite().all() for tensor in kept(ours, 4).values())


@pytest.mark.parametrize("algorithm", METHODS)
def test_the_preset_is_what_the_method_does_anyway(algorithm: str) -> None:
    preset = PRESETS / f"{algorithm.lower()}.yaml"
    stacked = parsed(DIGITS, preset)["algorithm"]
    assert stacked == parsed(DIGITS, f"--algorithm=mosaic.algorithms.{algorithm}")["algorithm"]
    assert yaml.safe_load(preset.read_text())["algorithm"]["init_args"].items() <= stacked["init_args"].items()


def test_the_released_budget_is_that_of_thirteen_rounds_with_ten_clients() -> None:
    settings = parsed(DIGITS, PRESETS / "fedftg_released.yaml")["algorithm"]["init_args"]
    rounds, clients, iterations, student_steps = 13, 10, 10, 5
    assert settings["generator_updates"] == rounds * iterations * clients
    assert settings["student_updates"] == rounds * iterations * student_steps
    assert settings["tuning"]["iterations"] == iterations


@pytest.mark.slow
@pytest.mark.parametrize("preset", [pytest.param("fedftg", marks=pytest.mark.slow), "fedftg_released", "dfrd"])
def test_every_preset_walks_every_phase(preset: str, tmp_path: Path) -> None:
    flags = ["--config", PRESETS / f"{preset}.yaml", f"--federation.run_dir={tmp_path / 'run'}"]
    assert dry_run("fit", "--config", DIGITS, *flags) == {"ClassificationTask", "GeneratorDistillationTask"}
    assert not (tmp_path / "run").exists()


def test_the_objective_has_the_weights_the_labels_and_the_turn_of_the_round(
    blueprint: Blueprint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients weigh by class, labels come as often as they are held, and turns go on over rounds."""
    seen: dict[str, Any] = {}

    def task(generator: Any, student: Any, objective: FedFTGObjective, held: Tensor, *_: Any) -> None:
        seen.update(objective=objective, held=held)

    monkeypatch.setattr(fedftg, "GeneratorDistillationTask", task)
    counts = torch.tensor([[3, 0, 1], [1, 4, 1]])
    uploads = [TrainReply(client, blueprint.initial(client), row, {}, {}) for client, row in enumerate(counts)]
    plan = RoundPlan(2, 4, (0, 1), 1, 0.0, 0.1, distillation=(1, 1))
    context = SimpleNamespace(
        plan=plan,
        pool=SimpleNamespace(of=lambda _: blueprint),
        blueprint=blueprint,
        phases=SimpleNamespace(dry_run=DryRun(False), run=lambda *_: {}),
        seed_for=lambda _: 0,
        timed=lambda _: nullcontext(),
        count_updates=lambda *_: None,
    )
    algorithm = FedFTG(generator_updates=10, student_updates=4)
    algorithm._distil(blueprint.build(blueprint.initial(9)), uploads, ServerState({}), cast(Any, context))
    assert seen["held"].tolist() == [4, 4, 2]
    torch.testing.assert_close(seen["objective"].ensemble.weights, torch.tensor([[0.75, 0, 0.5], [0.25, 1, 0.5]]))
    assert seen["objective"].first == plan.spent(10) > 0


def test_dfrds_reward_has_its_weight(random: torch.Generator) -> None:
    images, labels = torch.rand(6, 1, 8, 8, generator=random), torch.arange(6) % 3
    conditions = Conditions(torch.randn(6, 4, generator=random), labels, labels)
    ensemble, student = (cast(Any, lambda pixels, *_, k=k: pixels.flatten(1)[:, k : k + 3]) for k in (0, 5))
    one, three = (
        DFRDObjective(ensemble, weight, 1.0).generator_terms(images, conditions, student, 0) for weight in (1.0, 3.0)
    )
    assert one["transferability"] != 0
    torch.testing.assert_close(three["transferability"], 3 * one["transferability"])
    assert three["fidelity"] == one["fidelity"]


def test_dfrds_earlier_generator_of_one_round_is_that_rounds(blueprint: Blueprint) -> None:
    algorithm, context = DFRD(average_decay=0.5), cast(Any, SimpleNamespace(blueprint=blueprint, seed_for=lambda _: 0))
    generator = load_generator(algorithm.tuning, ServerState({}), context)
    remembered = ServerState({}, tensors=algorithm._remember(generator, ServerState({})))
    memory = algorithm._earlier(remembered, context)
    assert memory is not None
    for ours, theirs in zip(memory.generator.parameters(), generator.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
