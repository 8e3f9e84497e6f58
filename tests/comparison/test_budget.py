"""What everybody may spend: as much as the Mosaic of the comparison, told to all who can be told."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from mosaic.algorithms import DENSE, DFRD, Algorithm, CoBoosting, FedAvg, FedFTG, Mosaic
from mosaic.cli.main import check
from mosaic.client.replay import ReplaySettings
from mosaic.comparison.budget import DistillationBudget, Made, matching_flags, reference_budget, spends
from mosaic.comparison.configurations import find_presets, read_configuration
from mosaic.comparison.request import RunRequest
from mosaic.comparison.tuning import made
from mosaic.errors import MosaicError
from mosaic.federation.schedule import Schedule
from mosaic.generation import Adversarial, ClassGaussians, Generation, Mixture
from mosaic.tasks.distillation import DistillationSettings
from tests.cases import for_each
from tests.small_runs import DIGITS

BUDGET = DistillationBudget(600, 6000)
FLAGS = ("--algorithm.student_updates=600", "--algorithm.generator_updates=6000")


class OfMyOwn(DENSE):
    """A class of a user's."""

    def __init__(self, loudness: int = 1, **more: Any) -> None:
        super().__init__(**more)


class Adversary(Adversarial):
    """A GAN of a user's."""


def row(algorithm: Algorithm, clients: int | None = 4, **schedule: Any) -> Any:
    """What a configuration makes."""
    return SimpleNamespace(
        algorithm=algorithm,
        federation=SimpleNamespace(schedule=Schedule(**schedule)),
        data=SimpleNamespace(partition=SimpleNamespace(num_clients=clients)),
    )


def mosaic(students: int, generators: int | Generation) -> Mosaic:
    """An algorithm that spends this on a student and on each generator."""
    generation = Adversarial(steps=generators) if isinstance(generators, int) else generators
    return Mosaic(distillation=DistillationSettings(steps=students), generation=generation)


def budget_of(
    rows: dict[str, Any], student: int | None = None, generator: int | None = None, preset: Made | None = None
) -> DistillationBudget:
    """The budget of rows that do without the preset, unless it is given."""

    def make() -> Made:
        assert preset is not None, "no row needs it"
        return preset

    return reference_budget(rows, make, student, generator)


def amounts(budget: DistillationBudget) -> tuple[int, int]:
    return budget.student_updates, budget.generator_updates


def made_of(files: Sequence[Path], *presets: str) -> Made:
    configs = [*map(read_configuration, files), *(each for name in presets for each in find_presets(name))]
    return made(check, RunRequest("row", 0, tuple(configs), ()))


def test_the_budget_is_mosaics() -> None:
    preset = made_of([DIGITS], "mosaic")
    assert budget_of({}, preset=preset) == DistillationBudget(600, 10 * 600, "mosaic", default_gan=True)


def test_the_budget_grows_with_clients_and_distilling_rounds() -> None:
    rows = {"mosaic": row(mosaic(5, 7), distill_rounds=[1, 3])}
    assert amounts(budget_of(rows)) == (2 * 5, 4 * 7)
    assert amounts(budget_of(rows, 3)) == (3, 28)
    assert amounts(budget_of(rows, None, 9)) == (10, 9)


@pytest.mark.parametrize(
    ("schedule", "clients"),
    [
        ({"participation": 0.5}, 5),
        ({"participation": 0.04}, 1),
        ({"participation": 0.3, "distill_rounds": [1, 3]}, 5),
        ({"participation": 0.5, "distill_rounds": []}, 0),
        ({"participation": 1.0, "distill_rounds": [1, 3]}, 10),
    ],
    ids=str,
)
def test_only_clients_that_take_part_in_a_distilling_round_train_generators(
    schedule: dict[str, Any], clients: int
) -> None:
    """As many as the plans of all seeds ask on average; one round asks as many with any seed."""
    plan = Schedule(**schedule)
    asked = [
        len({client for round in plan.distills_after for client in plan.plan(round, 10, seed).clients})
        for seed in range(200)
    ]
    assert abs(mean(asked) - clients) < 0.5
    assert amounts(budget_of({"mosaic": row(mosaic(5, 7), 10, **schedule)}))[1] == clients * 7


def test_with_replay_clients_train_a_generator_in_their_first_round() -> None:
    algorithm = Mosaic(generation=Adversarial(steps=7), replay=ReplaySettings(share=0.5))
    schedule: dict[str, Any] = {"participation": 0.3, "collaborative_rounds": 3, "fine_tune_rounds": 1}
    plan = Schedule(**schedule)
    asked = [
        len({client for round in range(1, 5) for client in plan.plan(round, 10, seed).clients}) for seed in range(200)
    ]
    assert abs(mean(asked) - 8) < 0.5
    assert amounts(budget_of({"mosaic": row(algorithm, 10, **schedule)}))[1] == 8 * 7


@for_each(
    ("generation", "updates"),
    [
        (ClassGaussians(), 600),
        (Adversarial(), 600),
        (Mixture([ClassGaussians(), Adversarial()]), 600),
        (Mixture([Adversarial(steps=7), ClassGaussians()]), 7),
        (Mixture([Adversarial(steps=7), Adversarial(steps=4)]), 11),
        (Adversary(steps=3), 3),
    ],
)
def test_only_gans_are_counted_and_a_default_one_where_there_is_none(generation: Generation, updates: int) -> None:
    assert amounts(budget_of({"mosaic": row(mosaic(5, generation))})) == (5, 4 * updates)


def test_without_a_distilling_round_nothing_is_spent() -> None:
    assert amounts(budget_of({"mosaic": row(mosaic(5, 7), distill_rounds=[])})) == (0, 0)


def test_the_budget_is_that_of_the_row_and_not_of_what_lies_below_it(tmp_path: Path) -> None:
    """The preset mosaic writes every setting out, so what the configuration has set does not count for its row."""
    config = tmp_path / "config.yaml"
    settings = {
        "distillation": {"steps": 5},
        "generation": {"class_path": "mosaic.generation.Adversarial", "init_args": {"steps": 7}},
    }
    algorithm = {"class_path": "mosaic.algorithms.Mosaic", "init_args": settings}
    config.write_text(yaml.safe_dump({"algorithm": algorithm}))
    below, preset = made_of([DIGITS, config]), made_of([DIGITS, config], "mosaic")
    assert budget_of({"config": below, "mosaic": preset}) == DistillationBudget(600, 10 * 600, "mosaic", True)
    assert budget_of({"config": below}) == DistillationBudget(5, 10 * 7, "config")
    rivals = {"dense": made_of([DIGITS, config], "dense")}
    assert budget_of(rivals, preset=preset) == DistillationBudget(600, 10 * 600, "mosaic", True)


@pytest.mark.parametrize(
    ("names", "reference"),
    [
        (["paper", "config", "mosaic"], "mosaic"),
        (["paper", "config"], "config"),
        (["paper", "other"], "paper"),
    ],
)
def test_one_of_several_variants_sets_the_budget_and_is_named(names: list[str], reference: str) -> None:
    steps = {"mosaic": 1, "config": 2, "paper": 3, "other": 4}
    budget = budget_of({name: row(mosaic(steps[name], steps[name])) for name in names})
    assert budget == DistillationBudget(steps[reference], 4 * steps[reference], reference)
    assert str(budget).endswith(f"generator updates, as {reference} spends")


def test_a_row_is_not_said_to_spend_what_others_may() -> None:
    """Gaussians take no updates: the others' generators may take what GANs would."""
    gaussians = mosaic(5, ClassGaussians())
    assert str(budget_of({"config": row(gaussians)})) == (
        "5 student updates, as config spends, and 2400 generator updates, as a default GAN at each client takes "
        "(config trains none)"
    )
    told = str(budget_of({"config": row(gaussians, distill_rounds=[])}))
    assert told == "0 student and 0 generator updates, as config spends"


def test_a_budget_that_was_given_is_nobodys() -> None:
    assert str(budget_of({"mosaic": row(mosaic(1, 1))}, 3, 5)) == "3 student and 5 generator updates"
    assert amounts(budget_of({}, 0, 5)) == (0, 5), "no preset is made for it"


@for_each(
    ("config", "message"),
    [
        (row(mosaic(5, 7), clients=None), "does not say how many clients"),
        (row(mosaic(5, Adversarial(epochs=200))), "config counts the generators' training in epochs"),
    ],
    ids=["clients", "epochs"],
)
def test_a_budget_that_cannot_be_counted_is_asked_for(config: Made, message: str) -> None:
    with pytest.raises(MosaicError, match=rf"--generator_updates: .*{message}"):
        budget_of({"config": config})
    assert budget_of({"config": config}, None, 9).generator_updates == 9


def test_whoever_gives_one_figure_is_told_of_nobody_who_spends_both() -> None:
    assert str(budget_of({"mosaic": row(mosaic(1, 1))}, 3, None)) == "3 student and 4 generator updates"


@for_each("algorithm", [DENSE(), CoBoosting(), FedFTG(student_updates=3), DFRD(), OfMyOwn(2)])
def test_who_can_be_told_a_budget_is_told_it(algorithm: Algorithm) -> None:
    """Also through the arguments of a parent."""
    assert matching_flags(algorithm, BUDGET) == FLAGS


@for_each("algorithm", [FedAvg(), Mosaic()])
def test_nobody_else_is(algorithm: Algorithm) -> None:
    assert spends(algorithm) == []


def test_what_is_replaced_spends_nothing() -> None:
    assert spends(made_of([DIGITS], "dense").algorithm) == ["student_updates", "generator_updates"]
    assert spends(made_of([DIGITS], "dense+fedavg").algorithm) == []
