"""What a comparison asks for: runs that differ in their algorithm alone."""

from pathlib import Path

import pytest
import yaml

from mosaic.comparison.request import Budget, find_presets, matching_flags, merged, plan_runs, reference_budget
from mosaic.errors import MosaicError
from tests.runs import DIGITS

BUDGET = Budget(600, 6000)
SPENDS = {"algorithm": {"class_path": "x.Y", "init_args": {"student_updates": 1, "generator_updates": 2, "rate": 3}}}


@pytest.fixture
def spender(tmp_path: Path) -> Path:
    """A preset that says what its server may spend."""
    return write(tmp_path / "spender.yaml", SPENDS)


def write(path: Path, content: object) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


def plan(*algorithms: str, **changes: object) -> list[tuple[str, int, tuple[str, ...]]]:
    settings: dict[str, object] = {
        **{"overlays": [], "seeds": [0, 1], "partition_seed": None, "budget": BUDGET, "own_budget": []},
        **changes,
    }
    runs = plan_runs(config=DIGITS, algorithms=algorithms, **settings)  # type: ignore[arg-type]
    return [(run.algorithm, run.seed, run.flags) for run in runs]


def test_seeds_move_partition_and_initialisation_together() -> None:
    assert plan("fedavg") == [
        ("fedavg", 0, ("--seed_everything=0", "--data.seed=0")),
        ("fedavg", 1, ("--seed_everything=1", "--data.seed=1")),
    ]


def test_a_partition_can_stay() -> None:
    assert [flags for *_, flags in plan("fedavg", partition_seed=7)] == [
        ("--seed_everything=0", "--data.seed=7"),
        ("--seed_everything=1", "--data.seed=7"),
    ]


def test_every_method_that_distils_gets_the_same_budget(spender: Path) -> None:
    for name, _, flags in plan("fedavg", str(spender)):
        matched = [flag for flag in flags if "updates" in flag]
        expected = ["--algorithm.student_updates=600", "--algorithm.generator_updates=6000"]
        assert matched == ([] if name == "fedavg" else expected)


def test_a_method_can_keep_what_its_preset_says(spender: Path) -> None:
    assert not [flag for *_, flags in plan(str(spender), own_budget=[str(spender)]) for flag in flags if "up" in flag]


def test_what_is_replaced_spends_nothing(spender: Path) -> None:
    other = DIGITS.parent / "algorithms" / "fedavg.yaml"
    assert matching_flags([spender], BUDGET)
    assert not matching_flags([spender, other], BUDGET)


def test_presets_are_stacked() -> None:
    assert [path.stem for path in find_presets("mosaic_paper+reduced")] == ["mosaic_paper", "reduced"]
    assert find_presets("config") == []


def test_a_preset_may_change_the_algorithm_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "unfair.yaml", {**SPENDS, "federation": {"schedule": {"local_steps": 100}}, "data": {}})
    with pytest.raises(MosaicError, match=r"changes data, federation too.*--overlay"):
        find_presets(str(path))


def test_an_unknown_algorithm_is_told_the_known_ones() -> None:
    with pytest.raises(MosaicError, match=r"no fedfoo.*fedavg.*mosaic"):
        find_presets("fedfoo")


@pytest.mark.parametrize("algorithms", [(), ("fedavg", "fedavg")])
def test_algorithms_are_named_once(algorithms: tuple[str, ...]) -> None:
    with pytest.raises(MosaicError, match=r"--algorithms: expected different values"):
        plan(*algorithms)


def test_a_budget_of_its_own_needs_an_algorithm() -> None:
    with pytest.raises(MosaicError, match=r"--own_budget: dense is not among"):
        plan("fedavg", own_budget=["dense"])


def test_the_budget_is_mosaics() -> None:
    assert reference_budget(merged([DIGITS]), None, None) == Budget(600, 10 * 600)


def test_the_budget_grows_with_clients_and_distilling_rounds() -> None:
    config = {
        "data": {"partition": {"class_path": "P", "init_args": {"num_clients": 4}}},
        "federation": {"schedule": {"distill_rounds": [1, 3]}},
        "algorithm": {"class_path": "mosaic.algorithms.Mosaic", "init_args": {"generation": {"steps": 7}}},
    }
    assert reference_budget(config, None, None) == Budget(2 * 600, 4 * 7)
    assert reference_budget(config, 5, None) == Budget(5, 28)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"data": {"partition": {"class_path": "P"}}}, "does not say how many clients"),
        ({"data": {"partition": "P"}}, "does not say how many clients"),
        (
            {
                "data": {"partition": {"init_args": {"num_clients": 4}}},
                "algorithm": {"class_path": "a.Mosaic", "init_args": {"generation": {"epochs": 200}}},
            },
            "in epochs",
        ),
    ],
)
def test_a_budget_that_cannot_be_counted_is_asked_for(config: dict[str, object], message: str) -> None:
    with pytest.raises(MosaicError, match=rf"--generator_updates: .*{message}"):
        reference_budget(config, None, None)
    assert reference_budget(config, None, 9).generator_updates == 9


def test_stacking_replaces_sections_of_another_class(tmp_path: Path) -> None:
    below = write(tmp_path / "a.yaml", {"x": {"class_path": "A", "init_args": {"p": 1}}, "y": {"p": 1, "q": 1}})
    above = write(tmp_path / "b.yaml", {"x": {"class_path": "B"}, "y": {"p": 2}})
    assert merged([below, above]) == {"x": {"class_path": "B"}, "y": {"p": 2, "q": 1}}


@pytest.mark.parametrize("content", ["[1, 2]", "a: [", None])
def test_what_is_no_configuration_is_refused(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(MosaicError, match=r"c\.yaml: expected a configuration of mosaic fit"):
        merged([path])
