"""What each algorithm chooses for itself: by validation, one setting after the other, no run twice."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mosaic.cli.main import main
from mosaic.comparison.outcome import Failure, Outcome
from mosaic.comparison.request import RunRequest
from mosaic.comparison.tuning import Choice, check_all, made, read_choices, require_same_choices, tuned
from mosaic.errors import MosaicError
from tests.comparison.test_table import outcome
from tests.small_runs import DIGITS

RATES = Choice("rate", ("0.01", "0.03", "0.1"))
LAST = Choice("last", ("0.01", "0.001"))


class Bench:
    """Gives every run the accuracy that a test says, and remembers who ran."""

    def __init__(self, said: dict[str, float | None]) -> None:
        self.said, self.ran = said, list[str]()

    def finish(self, requests: Sequence[RunRequest]) -> list[Outcome | Failure]:
        self.ran += [request.algorithm for request in requests]
        return [self._result(request) for request in requests]

    def _result(self, request: RunRequest) -> Outcome | Failure:
        accuracy = self.said.get(request.algorithm, 0.1)
        if accuracy is None:
            return Failure(request.algorithm, request.seed, "diverged")
        found = outcome(request.algorithm, request.seed, 1 - accuracy)  # the test split says the opposite
        found.rounds[-1]["validation_accuracy"] = accuracy
        return found


def choose(bench: Bench, folder: Path, *choices: Choice, names: Sequence[str] = ("ours",)) -> list[tuple[str, ...]]:
    requests = [RunRequest(name, seed, (), ()) for name in names for seed in (4, 5)]
    asked = tuned(requests, choices, bench.finish, folder / "outcomes.jsonl")
    assert [(request.algorithm, request.seed) for request in asked] == [(name, s) for name in names for s in (4, 5)]
    return [request.tuned for request in asked]


def test_every_algorithm_takes_what_validation_likes_best(tmp_path: Path) -> None:
    bench = Bench({"ours at 0.03": 0.9, "theirs at 0.1": 0.8})
    assert choose(bench, tmp_path, RATES, names=("ours", "theirs")) == [("rate=0.03",)] * 2 + [("rate=0.1",)] * 2


def test_one_setting_is_chosen_after_the_other(tmp_path: Path) -> None:
    bench = Bench({"ours at 0.1, 0.01": 0.5, "ours at 0.1, 0.001": 0.6, "ours at 0.03, 0.001": 0.9})
    assert choose(bench, tmp_path, RATES, LAST) == [("rate=0.1", "last=0.001")] * 2
    assert "ours at 0.03, 0.001" not in bench.ran


def checked(
    fails: Callable[[str], bool],
    *choices: Choice,
    names: Sequence[str] = ("ours", "theirs"),
    done: Collection[str] = (),
) -> list[str]:
    """What is checked before anything is run."""
    seen: list[str] = []

    def check(arguments: Sequence[str]) -> Any:
        seen.append(" ".join(arguments[1:]))
        if fails(seen[-1]):
            raise MosaicError("no")

    requests = [RunRequest(name, seed, (), (f"--{name}",)) for name in names for seed in (4, 5)]
    check_all(partial(made, check), requests, choices, done)
    return seen


def test_every_row_is_checked_once_and_every_choice_until_it_can_be_made() -> None:
    assert checked(lambda _: False) == ["--ours", "--theirs"]
    plain, ours = ["--ours", "--theirs"], "--ours --rate=0.01 --last=0.01"
    assert checked(lambda _: False, RATES, LAST) == [*plain, ours, ours]
    assert checked(lambda given: "0.01" in given, RATES) == [*plain, "--ours --rate=0.01", "--ours --rate=0.03"]
    mine = checked(lambda given: "--ours --rate" in given, RATES)
    assert mine[-1] == "--theirs --rate=0.01", "only some rows may have a setting"


def test_rows_that_are_there_count_for_the_choices_alone() -> None:
    """A key that only they have is no fault of the others, when a comparison is given again."""
    assert checked(lambda given: "--theirs --rate" in given, RATES, done=["ours"]) == ["--theirs", "--ours --rate=0.01"]
    assert checked(lambda _: True, RATES, done=["ours", "theirs"]) == []


def test_rows_and_choices_that_nobody_can_make_are_refused_by_name() -> None:
    with pytest.raises(MosaicError, match=r"^theirs: no$"):
        checked(lambda given: given == "--theirs")
    with pytest.raises(MosaicError, match=r"^ours with rate=0\.01: no$"):
        checked(lambda given: "rate" in given, RATES)


def test_the_first_wins_among_equals(tmp_path: Path) -> None:
    assert choose(Bench({}), tmp_path, RATES) == [("rate=0.01",)] * 2


def test_a_run_that_fails_is_not_chosen(tmp_path: Path) -> None:
    bench = Bench({"ours at 0.01": None, "ours at 0.03": 0.0, "ours at 0.1": None})
    assert choose(bench, tmp_path, RATES) == [("rate=0.03",)] * 2


def test_the_run_that_was_chosen_is_the_first_seeds(tmp_path: Path) -> None:
    choose(Bench({"ours at 0.03": 0.9}), tmp_path, RATES)
    kept = Outcome.read_all(tmp_path / "outcomes.jsonl")
    assert [(each.algorithm, each.seed, each.validated) for each in kept] == [("ours", 4, 0.9)]


def test_outcomes_that_chose_something_else_are_refused_before_anything_is_tried(tmp_path: Path) -> None:
    choose(Bench({}), tmp_path, RATES)
    requests, file = [RunRequest("ours", 4, (), ())], tmp_path / "outcomes.jsonl"
    with pytest.raises(
        MosaicError, match=r"ours, seed 4, which has chosen nothing, where --tune asks for rate and last"
    ):
        require_same_choices(requests, [RATES, LAST], file)
    require_same_choices([RunRequest("theirs", 4, (), ())], [LAST], file)
    require_same_choices(requests, [LAST], tmp_path / "none.jsonl")


def test_it_runs_what_it_says(tmp_path: Path) -> None:
    key, output = "federation.schedule.learning_rate", tmp_path / "output"
    overlay = tmp_path / "tiny.yaml"
    overlay.write_text("federation: {schedule: {collaborative_rounds: 1, fine_tune_rounds: 0, local_steps: 2}}")
    flags = [f"--tune={key}=1e-9,0.05", "--algorithms=fedavg", "--seeds=0", f"--overlay={overlay}"]
    main(["compare", str(DIGITS), *flags, f"--output={output}"])
    tried = Outcome.read_all(output / "tried.jsonl")
    assert [each.algorithm for each in tried] == ["fedavg at 0.05", "fedavg at 1e-9"]
    (kept,) = Outcome.read_all(output / "outcomes.jsonl")
    assert kept.tuned == (f"{key}={'0.05' if tried[0].validated > tried[1].validated else '1e-9'}",)
    assert "fedavg: chose learning_rate 0." in (output / "comparison.md").read_text()
    assert not (output / "runs" / "fedavg").exists()


@pytest.mark.parametrize("text", ["rate", "rate=", "rate=1", "rate=1,1", "=1,2", "rate=1,2 rate=3,4"])
def test_what_is_no_choice_is_refused(text: str) -> None:
    with pytest.raises(MosaicError, match="--tune: expected "):
        read_choices(text)


def test_several_choices_have_spaces_between() -> None:
    assert read_choices("a.b=1,2  c=3,4") == [Choice("a.b", ("1", "2")), Choice("c", ("3", "4"))]


def test_where_every_try_fails_nothing_else_is_run(tmp_path: Path) -> None:
    """As with a key that no run knows."""
    bench = Bench({f"ours at {rate}, 0.01": None for rate in RATES.values})
    with pytest.raises(MosaicError, match="all 3 runs that try rate have failed"):
        choose(bench, tmp_path, RATES, LAST)
    assert len(bench.ran) == 3


def test_without_a_validation_accuracy_there_is_nothing_to_choose_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Outcome, "validated", None)
    with pytest.raises(MosaicError, match=r"--tune: no run of ours that tries rate has a validation accuracy"):
        choose(Bench({"ours at 0.01": None}), tmp_path, RATES)
    assert not (tmp_path / "outcomes.jsonl").exists()
