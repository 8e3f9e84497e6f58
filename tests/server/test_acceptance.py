"""Which of several models goes into the next round, where some clients say nothing of one of them."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mosaic.server.acceptance import Choice, choose
from mosaic.server.cohort import Judgement


def judgement(right: dict[int, int], missing: tuple[int, ...] = (), total: int = 10) -> Judgement:
    """Clients with so many of ten images right."""
    correct = torch.tensor([[count] for count in right.values()]).reshape(len(right), 1)
    return Judgement(correct, torch.full_like(correct, total), torch.ones(len(right), 1), tuple(right), missing)


def chosen(before: Judgement, *after: Judgement) -> Choice:
    said: dict[str, float] = {}
    old: Any = "old"
    offers: Any = [f"offer {place}" for place in range(len(after))]
    cohort: Any = SimpleNamespace(evaluate=dict(zip([old, *offers], [before, *after], strict=True)).__getitem__)
    plan, recorder = SimpleNamespace(round=4), SimpleNamespace(scalar=said.__setitem__)
    context: Any = SimpleNamespace(plan=plan, recorder=recorder)
    choice = choose(old, offers, "student", cohort, context)
    assert said == {"server/student_accepted": float(choice.accepted)}
    return choice


def accepted(before: Judgement, after: Judgement) -> bool:
    best, answer = chosen(before, after)
    assert best == 0
    return answer


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("mosaic"), "propagate", True)
    caplog.set_level(logging.WARNING, "mosaic")


def test_only_clients_that_have_judged_both_models_count() -> None:
    """By the sums over everybody the old model would win the first time, and the new one the second."""
    assert accepted(judgement({0: 5, 1: 9}), judgement({0: 6}, missing=(1,)))
    assert not accepted(judgement({0: 5}, missing=(1,)), judgement({0: 4, 1: 9}))
    assert accepted(judgement({0: 1, 2: 5}, missing=(1,)), judgement({1: 0, 2: 5}, missing=(0,)))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (judgement({}, missing=(0, 1)), judgement({}, missing=(0, 1))),
        (judgement({0: 5}, missing=(1,)), judgement({1: 9}, missing=(0,))),
        (judgement({0: 0}, missing=(1,), total=0), judgement({0: 0}, missing=(1,), total=0)),
    ],
    ids=["nobody", "nobody both", "only one without images"],
)
def test_a_model_that_nobody_has_judged_is_refused(
    before: Judgement, after: Judgement, caplog: pytest.LogCaptureFixture
) -> None:
    assert not accepted(before, after)
    assert "has judged the student, so it is refused" in caplog.text
    assert "round 4: none of the clients [" in caplog.text


def test_a_model_that_nobody_can_judge_is_taken_unseen(caplog: pytest.LogCaptureFixture) -> None:
    assert accepted(judgement({}), judgement({}))
    assert "no client can judge the student, so it is taken unseen" in caplog.text


def test_of_several_offers_the_best_is_taken_or_refused() -> None:
    worse, old, better = (judgement({0: count, 1: 5}) for count in (3, 4, 6))
    assert chosen(old, worse, better) == Choice(best=1, accepted=True)
    assert chosen(old, better, worse) == Choice(best=0, accepted=True)
    assert chosen(better, worse, old) == Choice(best=1, accepted=False)


def test_of_equal_offers_the_first_is_best_and_the_smaller_loss_decides_among_as_many_right() -> None:
    old, same = judgement({0: 5}), judgement({0: 5})
    assert chosen(old, same, same) == Choice(best=0, accepted=True)
    surer = same._replace(loss=same.loss / 2)
    assert chosen(old, same, surer) == Choice(best=1, accepted=True)
    assert chosen(surer, same, same) == Choice(best=0, accepted=False)


def test_only_clients_that_have_judged_all_offers_count() -> None:
    """By the sums over everybody the second offer would be the best."""
    old = judgement({0: 5, 1: 5})
    assert chosen(old, judgement({0: 6}, missing=(1,)), judgement({0: 5, 1: 9})) == Choice(best=0, accepted=True)


def test_the_first_offer_is_taken_where_nobody_can_judge() -> None:
    assert chosen(judgement({}), judgement({}), judgement({})) == Choice(best=0, accepted=True)
