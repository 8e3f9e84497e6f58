"""What everybody may spend: as much as the Mosaic of the comparison, told to all who can be told."""

from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import yaml

from mosaic.algorithms import DENSE
from mosaic.comparison.budget import DistillationBudget, matching_flags, reference_budget, spends
from mosaic.comparison.configurations import find_presets, merged, read_configuration
from mosaic.errors import MosaicError
from mosaic.federation.schedule import Schedule
from tests.cases import for_each
from tests.small_runs import DIGITS

BUDGET = DistillationBudget(600, 6000)
FLAGS = ("--algorithm.student_updates=600", "--algorithm.generator_updates=6000")
FOUR_CLIENTS = {"data": {"partition": {"class_path": "P", "init_args": {"num_clients": 4}}}}


class OfMyOwn(DENSE):
    """A class of a user's."""

    def __init__(self, loudness: int = 1, **more: Any) -> None:
        super().__init__(**more)


def mosaic(students: int, generators: int, **more: object) -> dict[str, Any]:
    """A configuration whose Mosaic spends this on a student and on each generator."""
    settings = {"distillation": {"steps": students}, "generation": {"init_args": {"steps": generators, "epochs": 0}}}
    return {**FOUR_CLIENTS, "algorithm": {"class_path": "mosaic.algorithms.Mosaic", "init_args": settings}, **more}


def amounts(budget: DistillationBudget) -> tuple[int, int]:
    return budget.student_updates, budget.generator_updates


def test_the_budget_is_mosaics() -> None:
    assert reference_budget(merged([read_configuration(DIGITS)]), {}, None, None) == DistillationBudget(
        600, 10 * 600, "mosaic", default_gan=True
    )


def test_the_budget_grows_with_clients_and_distilling_rounds() -> None:
    schedule = {"federation": {"schedule": {"distill_rounds": [1, 3]}}}
    rows = {"mosaic": mosaic(5, 7, **schedule)}
    assert amounts(reference_budget({}, rows, None, None)) == (2 * 5, 4 * 7)
    assert amounts(reference_budget({}, rows, 3, None)) == (3, 28)
    assert amounts(reference_budget({}, rows, None, 9)) == (10, 9)


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
    config = mosaic(5, 7, federation={"schedule": schedule})
    config["data"] = {"partition": {"class_path": "P", "init_args": {"num_clients": 10}}}
    plan = Schedule(**schedule)
    asked = [
        len({client for round in plan.distills_after for client in plan.plan(round, 10, seed).clients})
        for seed in range(200)
    ]
    assert abs(mean(asked) - clients) < 0.5
    assert amounts(reference_budget({}, {"mosaic": config}, None, None))[1] == clients * 7


@pytest.mark.parametrize(
    ("generation", "updates"),
    [
        ("mosaic.generation.ClassGaussians", 600),
        ("mosaic.generation.Adversarial", 600),
        ({"class_path": "mosaic.generation.Mixture", "init_args": {"parts": ["ClassGaussians", "Adversarial"]}}, 600),
        (
            {
                "class_path": "Mixture",
                "init_args": {"parts": [{"class_path": "Adversarial", "init_args": {"steps": 7}}, "ClassGaussians"]},
            },
            7,
        ),
        ({"class_path": "mine.Adversary", "init_args": {"steps": 3}}, 3),
    ],
)
def test_only_gans_are_counted_and_a_default_one_where_there_is_none(generation: object, updates: int) -> None:
    config = mosaic(5, 7)
    config["algorithm"]["init_args"]["generation"] = generation
    assert amounts(reference_budget({}, {"mosaic": config}, None, None)) == (5, 4 * updates)


def test_without_a_distilling_round_nothing_is_spent() -> None:
    rows = {"mosaic": mosaic(5, 7, federation={"schedule": {"distill_rounds": []}})}
    assert amounts(reference_budget({}, rows, None, None)) == (0, 0)


def test_the_budget_is_that_of_the_row_and_not_of_what_lies_below_it(tmp_path: Path) -> None:
    """The preset mosaic writes every setting out, so what the configuration has set does not count for its row."""
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(mosaic(5, 7)))
    common = read_configuration(config)
    rows = {name: merged([common, *find_presets(name)]) for name in ("config", "mosaic")}
    assert reference_budget(merged([common]), rows, None, None) == DistillationBudget(600, 4 * 600, "mosaic", True)
    own = {"config": rows["config"]}
    assert reference_budget(merged([common]), own, None, None) == DistillationBudget(5, 4 * 7, "config")
    rivals = {"dense": merged([common, *find_presets("dense")])}
    assert reference_budget(merged([common]), rivals, None, None) == DistillationBudget(600, 4 * 600, "mosaic", True)


@pytest.mark.parametrize(
    ("names", "reference"),
    [
        (["paper", "config", "mosaic"], "mosaic"),
        (["paper", "config"], "config"),
        (["paper", "other"], "paper"),
    ],
)
def test_one_of_several_variants_sets_the_budget_and_is_named(names: list[str], reference: str) -> None:
    every = {"mosaic": mosaic(1, 1), "config": mosaic(2, 2), "paper": mosaic(3, 3), "other": mosaic(4, 4)}
    budget = reference_budget({}, {name: every[name] for name in names}, None, None)
    steps = dict(zip(every, (1, 2, 3, 4), strict=True))[reference]
    assert budget == DistillationBudget(steps, 4 * steps, reference)
    assert str(budget).endswith(f"generator updates, as {reference} spends")


def test_a_row_is_not_said_to_spend_what_others_may() -> None:
    """Gaussians take no updates: the others' generators may take what GANs would."""
    config = mosaic(5, 7)
    config["algorithm"]["init_args"]["generation"] = "ClassGaussians"
    assert str(reference_budget({}, {"config": config}, None, None)) == (
        "5 student updates, as config spends, and 2400 generator updates, as a default GAN at each client takes "
        "(config trains none)"
    )
    config["federation"] = {"schedule": {"distill_rounds": []}}
    told = str(reference_budget({}, {"config": config}, None, None))
    assert told == "0 student and 0 generator updates, as config spends"


def test_a_budget_that_was_given_is_nobodys() -> None:
    assert str(reference_budget({}, {"mosaic": mosaic(1, 1)}, 3, 5)) == "3 student and 5 generator updates"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"data": {"partition": {"class_path": "P"}}}, "does not say how many clients"),
        ({"data": {"partition": "P"}}, "does not say how many clients"),
        (
            {
                **FOUR_CLIENTS,
                "algorithm": {"class_path": "a.Mosaic", "init_args": {"generation": {"init_args": {"epochs": 200}}}},
            },
            "config counts the generators' training in epochs",
        ),
    ],
)
def test_a_budget_that_cannot_be_counted_is_asked_for(config: dict[str, object], message: str) -> None:
    with pytest.raises(MosaicError, match=rf"--generator_updates: .*{message}"):
        reference_budget(config, {"config": config}, None, None)
    assert reference_budget(config, {"config": config}, None, 9).generator_updates == 9


def test_settings_may_stand_beside_the_class_as_in_fit() -> None:
    short = {**FOUR_CLIENTS, "algorithm": {"distillation": {"steps": 7}}}
    assert amounts(reference_budget({}, {"config": short}, None, 0)) == (7, 0)


@pytest.mark.parametrize(
    "config",
    [
        {**FOUR_CLIENTS, "federation": {"schedule": {"distill_rounds": 3}}},
        {**FOUR_CLIENTS, "algorithm": {"init_args": {"distillation": {"steps": None}}}},
        {"data": {"partition": {"class_path": "P", "init_args": {"num_clients": "ten"}}}},
    ],
)
def test_a_configuration_that_cannot_be_read_is_named(config: dict[str, object]) -> None:
    with pytest.raises(MosaicError, match="what config spends cannot be read from its configuration"):
        reference_budget(config, {"config": config}, None, None)
    assert amounts(reference_budget(config, {"config": config}, 1, 2)) == (1, 2)


def test_whoever_gives_one_figure_is_told_of_nobody_who_spends_both() -> None:
    assert str(reference_budget({}, {"mosaic": mosaic(1, 1)}, 3, None)) == "3 student and 4 generator updates"


@for_each(
    "algorithm",
    [
        {"class_path": "mosaic.algorithms.DENSE"},
        "mosaic.algorithms.CoBoosting",
        {"class_path": "mosaic.algorithms.FedFTG", "init_args": {"student_updates": 3}},
        {"class_path": "DFRD"},
        {"class_path": f"{__name__}.OfMyOwn", "init_args": {"loudness": 2}},
        {"class_path": "nowhere.Y", "init_args": {"student_updates": 1, "generator_updates": 2, "rate": 3}},
    ],
    ids=str,
)
def test_who_can_be_told_a_budget_is_told_it(algorithm: object) -> None:
    """By the class, whatever its YAML names; by the YAML where the class cannot be imported."""
    assert matching_flags({"algorithm": algorithm}, BUDGET) == FLAGS


@for_each("algorithm", [None, "nowhere.Y", "mosaic.algorithms.FedAvg", "mosaic.algorithms.Mosaic"])
def test_nobody_else_is(algorithm: str | None) -> None:
    assert spends({"algorithm": algorithm}) == []


def test_what_is_replaced_spends_nothing() -> None:
    assert spends(merged(find_presets("dense"))) == ["student_updates", "generator_updates"]
    assert spends(merged(find_presets("dense+fedavg"))) == []
