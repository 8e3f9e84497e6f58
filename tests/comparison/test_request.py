"""What a comparison asks for: runs that differ in their algorithm alone."""

from pathlib import Path

import pytest
import yaml

from mosaic.comparison.budget import Budget
from mosaic.comparison.request import plan_runs
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


@pytest.mark.parametrize("algorithms", [(), ("fedavg", "fedavg")])
def test_algorithms_are_named_once(algorithms: tuple[str, ...]) -> None:
    with pytest.raises(MosaicError, match=r"--algorithms: expected different values"):
        plan(*algorithms)


def test_a_budget_of_its_own_needs_an_algorithm() -> None:
    with pytest.raises(MosaicError, match=r"--own_budget: dense is not among"):
        plan("fedavg", own_budget=["dense"])
