"""The file of a comparison's outcomes, a line each."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from mosaic.comparison.outcome import Outcome
from mosaic.errors import MosaicError
from tests.comparison.test_table import outcome


def test_outcomes_come_back_in_the_order_of_their_runs(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "outcomes.jsonl"
    assert Outcome.read_all(file) == []
    for each in [outcome("b", 10, 0.25), outcome("b", 9, 1 / 3), outcome("a", 3, None)]:
        each.write(file)
    assert Outcome.read_all(file) == [outcome("a", 3, None), outcome("b", 9, 1 / 3), outcome("b", 10, 0.25)]
    assert len(file.read_text().splitlines()) == 3


def test_an_outcome_takes_the_place_of_an_older_one_of_its_run(tmp_path: Path) -> None:
    file = tmp_path / "outcomes.jsonl"
    for accuracy in (0.1, 0.2):
        outcome("a", 0, accuracy).write(file)
    assert Outcome.read_all(file) == [outcome("a", 0, 0.2)]


def test_writers_side_by_side_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / "outcomes.jsonl"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: outcome("a", seed, 0.5).write(file), range(20)))
    assert [each.seed for each in Outcome.read_all(file)] == list(range(20))


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "outcomes.jsonl"
    outcome("a", 0, 0.5).write(file)
    with pytest.raises(TypeError):
        replace(outcome("a", 1, 0.5), request={"config": object()}).write(file)
    assert Outcome.read_all(file) == [outcome("a", 0, 0.5)]


@pytest.mark.parametrize("line", ["{cut", "[1, 2]", "3", '{"algorithm": "b"}', ""])
def test_a_line_that_holds_something_else_is_named(line: str, tmp_path: Path) -> None:
    file = tmp_path / "outcomes.jsonl"
    outcome("a", 0, 0.5).write(file)
    file.write_text(f"{file.read_text()}{line}\n")
    with pytest.raises(MosaicError, match=r"outcomes\.jsonl, line 2: expected the outcome of a run: remove the line"):
        Outcome.read_all(file)
