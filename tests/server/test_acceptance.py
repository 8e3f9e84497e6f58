"""Which of several models goes into the next round, where some clients say nothing of one of them."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mosaic.server.acceptance import accepts, best_of, is_taken
from mosaic.server.cohort import Judgement


def judgement(right: dict[int, int], missing: tuple[int, ...] = (), total: int = 10) -> Judgement:
    """Clients with so many of ten images right."""
    correct = torch.tensor([[count] for count in right.values()]).reshape(len(right), 1)
    return Judgement(correct, torch.full_like(correct, total), torch.ones(len(right), 1), tuple(right), missing)


def asked(*judgements: Judgement) -> tuple[list[Any], Any]:
    """Return models and clients that judge them so."""
    models: list[Any] = [{"weight": torch.tensor(float(place))} for place in range(len(judgements))]
    return models, SimpleNamespace(evaluate=lambda model: judgements[int(model["weight"])])


def accepted(before: Judgement, after: Judgement, **weights: torch.Tensor) -> bool:
    said: dict[str, float] = {}
    (old, new), cohort = asked(before, after)
    new |= weights
    plan, recorder = SimpleNamespace(round=4), SimpleNamespace(scalar=said.__setitem__)
    context: Any = SimpleNamespace(plan=plan, recorder=recorder)
    answer = accepts(old, new, "new-born head", cohort, context)
    assert said == {"server/new_born_head_accepted": float(answer)}
    return answer


def best(*judgements: Judgement) -> int:
    return best_of(*asked(*judgements))


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
    assert "has judged the new-born head, so it is refused" in caplog.text
    assert "round 4: none of the clients [" in caplog.text


def test_a_model_that_nobody_can_judge_is_taken_unseen(caplog: pytest.LogCaptureFixture) -> None:
    assert accepted(judgement({}), judgement({}))
    assert "no client can judge the new-born head, so it is taken unseen" in caplog.text


def test_of_several_offers_the_one_with_most_right_is_best_of_equals_the_first() -> None:
    worse, good, better = (judgement({0: count, 1: 5}) for count in (3, 4, 6))
    assert best(worse, better, good) == 1
    assert best(good, good) == 0
    assert best(good, good._replace(loss=good.loss / 2)) == 1
    assert best(judgement({}), judgement({})) == 0


def test_only_clients_that_have_judged_all_offers_count() -> None:
    """By the sums over everybody the second offer would be the best."""
    assert best(judgement({0: 6}, missing=(1,)), judgement({0: 5, 1: 9})) == 0


def test_of_as_many_right_the_smaller_loss_is_accepted() -> None:
    old = judgement({0: 5})
    assert accepted(old, old)
    assert not accepted(old._replace(loss=old.loss / 2), old)


@pytest.mark.parametrize("judges", [{}, {0: 5}], ids=["nobody", "one"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_whoever_judges(
    number: float, judges: dict[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    assert not accepted(judgement(judges), judgement(judges), new=torch.tensor(number))
    assert "round 4: the weights of the new-born head are not finite, so it is refused" in caplog.text


def test_unguarded_a_student_is_taken_unless_it_has_diverged() -> None:
    said: dict[str, float] = {}
    nobody: Any = None
    context: Any = SimpleNamespace(plan=SimpleNamespace(round=4), recorder=SimpleNamespace(scalar=said.__setitem__))
    learnt, broken = {"weight": torch.ones(2)}, {"weight": torch.tensor([1.0, float("nan")])}
    assert is_taken(learnt, learnt, nobody, context, guarded=False)
    assert said == {"server/student_accepted": 1.0}
    assert not is_taken(learnt, broken, nobody, context, guarded=False)
    assert said == {"server/student_accepted": 0.0}
