"""What a comparison asks for: runs that differ in their algorithm alone."""

from pathlib import Path

import pytest
import yaml

from mosaic.comparison.configurations import find_presets, read_configuration
from mosaic.comparison.outcome import Outcome
from mosaic.comparison.request import RunRequest, plan_runs, read_rows, require_whole_runs
from mosaic.errors import MosaicError
from tests.comparison.test_configurations import write
from tests.small_runs import DIGITS


def plan(*algorithms: str, **changes: object) -> list[tuple[str, int, tuple[str, ...]]]:
    settings: dict[str, object] = {"seeds": [0, 1], "partition_seed": None, **changes}
    runs = plan_runs(read_rows([read_configuration(DIGITS)], algorithms), **settings)  # type: ignore[arg-type]
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


@pytest.mark.parametrize("algorithms", [(), ("fedavg", "fedavg")])
def test_algorithms_are_named_once(algorithms: tuple[str, ...]) -> None:
    with pytest.raises(MosaicError, match=r"--algorithms: expected different values"):
        plan(*algorithms)


def test_a_budget_of_its_own_needs_an_algorithm() -> None:
    with pytest.raises(MosaicError, match=r"--own_budget: dense is not among"):
        read_rows([], ["fedavg"], own_budget=["dense"])


def test_a_row_keeps_nothing_of_another_algorithm_below_it(tmp_path: Path) -> None:
    """Arguments with the same name: what fit would hand on from class to class."""
    own = {"objective": "mosaic.client.objectives.VacantClass", "synthesis_steps": 3}
    below = {"data": {"batch_size": 8}, "algorithm": {"class_path": "mosaic.algorithms.DENSE", "init_args": own}}
    common = read_configuration(write(tmp_path / "below.yaml", below))
    request = RunRequest("fedavg", 0, (common, *find_presets("fedavg")), ("--data.seed=0",))
    command, *given, flag = request.arguments(tmp_path)
    assert (command, given[::2], flag) == ("fit", ["--config", "--config"], "--data.seed=0")
    read = [yaml.safe_load(Path(file).read_text()) for file in given[1::2]]
    assert read == [{"data": {"batch_size": 8}}, {"algorithm": {"class_path": "mosaic.algorithms.FedAvg"}}]


@pytest.mark.parametrize("dry", [True, 2])
def test_dry_runs_are_refused_since_they_leave_nothing(dry: object) -> None:
    with pytest.raises(MosaicError, match=r"trainer\.fast_dev_run: expected whole runs in a comparison, got"):
        require_whole_runs({"trainer": {"fast_dev_run": dry}})
    require_whole_runs({"trainer": {"fast_dev_run": False}})


def test_a_run_that_has_not_finished_has_no_outcome(tmp_path: Path) -> None:
    with pytest.raises(MosaicError, match=r"holds no finished run \(summary\.json is missing\)"):
        Outcome.of(RunRequest("ours", 0, (), ()), tmp_path)
