"""Who takes part in a round: the first of a drawn order who are there."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mosaic.errors import MosaicError
from mosaic.executors import SerialExecutor
from mosaic.federation.schedule import Schedule
from mosaic.seeding import SERVER, generator_for
from tests.small_runs import failed, fit_other


@pytest.mark.parametrize("present", [None, range(10)])
def test_where_all_are_there_the_first_of_the_drawn_order_take_part(present: range | None) -> None:
    for round in range(1, 20):
        order = torch.randperm(10, generator=generator_for(7, round, SERVER, "participants")).tolist()
        plan = Schedule(participation=0.4).plan(round, 10, 7, present)
        assert plan.clients == tuple(sorted(order[:4]))


def test_who_is_not_there_is_passed_over() -> None:
    schedule, there = Schedule(participation=0.4), {0, 2, 3, 5, 8}
    for round in range(1, 20):
        order = torch.randperm(10, generator=generator_for(7, round, SERVER, "participants")).tolist()
        expected = [client for client in order if client in there][:4]
        assert schedule.plan(round, 10, 7, there).clients == tuple(sorted(expected))


def test_where_too_few_are_there_absent_ones_fill_up() -> None:
    clients = set(Schedule(participation=0.4).plan(1, 10, 7, {0, 5}).clients)
    order = torch.randperm(10, generator=generator_for(7, 1, SERVER, "participants")).tolist()
    assert clients == {0, 5, *[client for client in order if client not in (0, 5)][:2]}


class HalfThere(SerialExecutor):
    """Reaches clients 1 and 2 alone."""

    def present(self) -> frozenset[int]:
        return frozenset({1, 2})


def test_a_run_asks_who_is_there(tmp_path: Path) -> None:
    half = ["--federation.schedule.participation=0.5", f"--executor={__name__}.HalfThere", "--executor.threads=1"]
    run = fit_other(tmp_path / "run", "LocalOnly", "--federation.schedule.collaborative_rounds=2", *half)
    assert sorted(path.name for path in (run / "rounds" / "0002" / "clients").iterdir()) == [
        "0001.safetensors",
        "0002.safetensors",
    ]
    assert failed(run) == []


def test_steps_of_experts_replace_passes_too() -> None:
    plan = Schedule(local_epochs=2.0, expert_steps=50, distill_rounds=[1]).plan(1, 4, 0)
    assert (plan.steps, plan.epochs) == (50, 0.0)


@pytest.mark.parametrize(
    "setting", [{"local_epochs": 1e30}, {"local_steps": 10**30}, {"collaborative_rounds": 2 * 10**12}]
)
def test_nobody_waits_for_more_than_can_be_counted_to(setting: dict[str, Any]) -> None:
    (key,) = setting
    with pytest.raises(MosaicError, match=f"federation.schedule.{key}: expected at most 1,000,000,000,000, got"):
        Schedule(**setting)
