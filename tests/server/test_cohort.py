import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from mosaic.messages import (
    Declined,
    EvaluateReply,
    EvaluateRequest,
    Failed,
    PrototypeReply,
    Reply,
    Request,
    StateDict,
    TrainReply,
    TrainRequest,
)
from mosaic.model_pool import ClientModels, ModelPool
from mosaic.nets import Blueprint, SmallCNN
from mosaic.server.asking import QuorumError
from mosaic.server.cohort import Cohort, Judgement
from mosaic.server.context import RoundPlan
from mosaic.server.faults import Faults
from mosaic.server.uploads import KeptUploads, Uploads
from tests.small_runs import LinearNet, same_models

MODEL = {"w": torch.ones(2)}
POOL = same_models(Blueprint(LinearNet, (1, 2, 2), 2, (0.0,), (1.0,)), 8)


class Scripted:
    """Gives prepared replies, and later ones to those that are asked again; notes what was asked, and for how long."""

    def __init__(self, *replies: Reply, later: Iterable[Reply] = ()) -> None:
        self.replies, self.later, self.asked = replies, iter(later), list[Request]()
        self.deadlines: list[float | None] = []

    def map(self, requests: Iterable[Request], deadline: float | None = None) -> Iterator[Reply]:
        self.deadlines.append(deadline)
        again = bool(self.asked) and requests == [self.asked[-1]]
        for request, reply in zip(requests, self.later if again else self.replies, strict=not again):
            self.asked.append(request)
            yield reply


def cohort(executor: Scripted, *clients: int, faults: Faults = Faults()) -> Cohort:
    return Cohort(executor, RoundPlan(4, 9, clients, 1, 0.0, 0.1, distillation=(1, 1)), POOL, faults=faults)


def judged(client: int, correct: list[int], total: list[int], loss: list[float]) -> EvaluateReply:
    return EvaluateReply(client, torch.tensor(correct), torch.tensor(total), torch.tensor(loss, dtype=torch.double))


def test_a_judgement_has_one_row_for_each_client_and_knows_its_columns() -> None:
    executor = Scripted(judged(1, [3, 0], [4, 0], [0.5, 0.0]), judged(6, [1, 2], [5, 6], [7.0, 8.0]))
    judgement = cohort(executor, 1, 6).evaluate(MODEL)
    assert judgement.correct.tolist() == [[3, 0], [1, 2]]
    assert judgement.total.tolist() == [[4, 0], [5, 6]]
    assert judgement.loss.tolist() == [[0.5, 0.0], [7.0, 8.0]]
    assert (judgement.total.dtype, judgement.loss.dtype) == (torch.long, torch.double)
    assert executor.asked == [EvaluateRequest(1, 4, MODEL), EvaluateRequest(6, 4, MODEL)]


def test_a_client_that_declines_leaves_no_row(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("mosaic"), "propagate", True)  # the command line, where it ran, says no
    executor = Scripted(Declined(1, "it is asleep"), judged(6, [1, 2], [5, 6], [7.0, 8.0]))
    with caplog.at_level(logging.WARNING, "mosaic"):
        judgement = cohort(executor, 1, 6).evaluate(MODEL)
    assert judgement.correct.tolist() == [[1, 2]]
    assert "round 4: client 1 declined: it is asleep" in caplog.text


def test_a_model_that_nobody_judges_has_no_rows_and_names_who_is_missing() -> None:
    judgement = cohort(Scripted(Declined(1, "it is asleep")), 1).evaluate(MODEL)
    assert (judgement.clients, judgement.missing) == ((), (1,))
    assert judgement.total.shape == (0, 2)
    assert judgement.figures() == (0, 0)


# who fails


FAULTS: dict[str, Any] = {
    "it raises": Failed(1, "ValueError in the client's code: its log says more"),
    "it fails without a word": Failed(1, ""),
    "None": None,
    "a mapping": {"client": 1},
    "a number": 7,
    "an object": object(),
    "another's refusal": Declined(5, "no"),
    "another's failure": Failed(5, "no"),
    "no tensor": replace(judged(1, [0, 0], [0, 0], [0.0, 0.0]), correct=None),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_client_that_fails_is_left_out_by_name(fault: Any, caplog: pytest.LogCaptureFixture) -> None:
    refused: list[str] = []
    right = [judged(client, [1, 2], [5, 6], [7.0, 8.0]) for client in (0, 2)]
    executor = Scripted(right[0], fault, right[1])
    plan = RoundPlan(4, 9, (0, 1, 2), 1, 0.0, 0.1, distillation=(1, 1))
    asked = Cohort(executor, plan, POOL, on_missing=lambda request, why: refused.append(f"{request.client}: {why}"))
    assert len(asked.evaluate(MODEL).total) == 2
    assert len(refused) == 1
    assert fault == Failed(1, "") or refused[0].startswith(
        ("1: ValueError in the client's code", "1: its reply was refused: expected")
    )
    assert "client 1" in caplog.text


LATE = Failed(1, "no answer within 5 s")


def test_where_too_few_answer_the_run_ends_and_says_who() -> None:
    broken = [Failed(client, "ValueError in the client's code") for client in range(2)]
    said = (
        "round 4: expected answers of at least 0.5 of the 4 clients asked (federation.faults.quorum, phase judge), got "
        "1; missing: client 0, 1 (ValueError in the client's code); client 3 (its process ended): fix them"
    )
    replies = [*broken, judged(2, [1, 2], [5, 6], [7.0, 8.0]), Failed(3, "its process ended")]
    with pytest.raises(QuorumError, match=re.escape(said)) as caught:
        cohort(Scripted(*replies), 0, 1, 2, 3).evaluate(MODEL)
    assert caught.value.exit_code == 69


def test_a_quorum_is_no_way_on_where_all_clients_fail_alike() -> None:
    with pytest.raises(QuorumError, match="one reason for all of them, so fix what they share") as caught:
        cohort(Scripted(*(Failed(client, "KeyError in the client's code") for client in range(3))), 0, 1, 2).evaluate(
            MODEL
        )
    assert "lower the quorum" not in str(caught.value)


@pytest.mark.parametrize(("least", "goes_on"), [(0.0, True), (2 / 3, True), (0.67, False), (1.0, False)])
def test_how_many_must_answer_is_a_setting_of_each_phase(least: float, goes_on: bool) -> None:
    replies = [judged(0, [1, 2], [5, 6], [7.0, 8.0]), LATE, judged(2, [1, 2], [5, 6], [7.0, 8.0])]
    faults = Faults(quorum={"judge": least, "train": 1.0})
    with nullcontext() if goes_on else pytest.raises(QuorumError):
        cohort(Scripted(*replies), 0, 1, 2, faults=faults).evaluate(MODEL)


def test_a_client_that_declines_has_answered() -> None:
    cohort(Scripted(Declined(1, "it is asleep")), 1, faults=Faults(quorum=1.0)).evaluate(MODEL)


@pytest.mark.parametrize(("retries", "rows"), [(0, 1), (1, 1), (2, 2)])
def test_who_gives_no_answer_is_asked_again_at_once_and_keeps_its_place(retries: int, rows: int) -> None:
    """Client 1 is late, then sends another's reply, then its own."""
    missing: list[int] = []
    own, other = judged(1, [3, 0], [4, 0], [0.5, 0.0]), judged(2, [1, 2], [5, 6], [7.0, 8.0])
    executor = Scripted(LATE, other, later=[judged(7, [3, 0], [4, 0], [0.5, 0.0]), own])
    plan = RoundPlan(4, 9, (1, 2), 1, 0.0, 0.1, distillation=(1, 1))
    faults = Faults(deadline={"judge": 5.0}, retries=retries)
    asking = Cohort(executor, plan, POOL, faults=faults, on_missing=lambda request, _: missing.append(request.client))
    judgement = asking.evaluate(MODEL)
    assert judgement.clients == ((1, 2) if rows == 2 else (2,))
    assert [request.client for request in executor.asked] == [1] * (1 + retries) + [2]
    assert executor.deadlines == [5.0] * (1 + retries)
    assert missing == ([] if rows == 2 else [1])


def test_only_what_some_clients_say_can_be_taken() -> None:
    both = cohort(Scripted(judged(1, [3, 0], [4, 0], [0.5, 0.0]), judged(6, [1, 2], [5, 6], [7.0, 8.0])), 1, 6)
    part = both.evaluate(MODEL).of([6, 9])
    assert part.clients == (6,)
    assert [values.tolist() for values in part[:3]] == [[[1, 2]], [[5, 6]], [[7.0, 8.0]]]
    assert part.of([]).figures() == (0, 0)


# judging what is received


WEIGHTS = POOL.blueprint.initial(0)


def trained(client: int, correct: list[int], total: list[int]) -> TrainReply:
    said = {"correct": torch.tensor(correct), "total": torch.tensor(total), "loss": torch.ones(2, dtype=torch.double)}
    metrics = {"loss": 0.5, "steps": 1, "validation_images": sum(total)}
    return TrainReply(client, WEIGHTS, torch.tensor([1, 1]), metrics, said)


def after_training(executor: Scripted, *clients: int) -> Cohort:
    asked = Cohort(executor, RoundPlan(4, 9, clients, 1, 0.0, 0.1, distillation=(1, 1)), POOL, judge_received=True)
    asked.train(WEIGHTS, Uploads)
    return asked


def test_the_received_model_is_judged_on_the_way_and_those_without_images_are_asked_nothing() -> None:
    """Of three clients the second has no validation image: it trains, and is not sent a model to judge."""
    executor = Scripted(trained(0, [1, 0], [2, 2]), trained(1, [0, 0], [0, 0]), trained(2, [3, 1], [3, 3]))
    asked = after_training(executor, 0, 1, 2)
    assert [request.judge for request in executor.asked if isinstance(request, TrainRequest)] == [True] * 3
    assert asked.received is not None
    assert asked.received.correct.tolist() == [[1, 0], [3, 1]]
    assert asked.evaluate(WEIGHTS).figures() == asked.received.figures() == (5, pytest.approx(4 / 10))
    assert len(executor.asked) == 3, "the received model is not sent once more"
    executor.replies = (judged(0, [2, 2], [2, 2], [0.1, 0.1]), judged(2, [3, 3], [3, 3], [0.1, 0.1]))
    assert asked.evaluate(MODEL).figures() == (10, pytest.approx(0.04))
    assert asked.evaluate(MODEL).figures() == (10, pytest.approx(0.04))
    assert executor.asked[3:] == [EvaluateRequest(0, 4, MODEL), EvaluateRequest(2, 4, MODEL)], "nor is any other"


def test_where_some_do_not_receive_the_model_all_judge_it_when_they_are_asked_and_none_in_training() -> None:
    """Clients that keep their own receive none: what they say in training would be said of their own."""
    pool = ClientModels(models=["global", partial(SmallCNN, width=2)]).pool(POOL.blueprint, 2, seed=0)
    executor = Scripted(*(replace(trained(client, [1, 0], [2, 2]), judgement={}) for client in (0, 1)))
    executor.replies = (executor.replies[0], replace(executor.replies[1], model={}))
    plan = RoundPlan(4, 9, (0, 1), 1, 0.0, 0.1, distillation=(1, 1))
    asked = Cohort(executor, plan, pool, judge_received=True)
    asked.train(WEIGHTS, Uploads)
    assert [request.judge for request in executor.asked if isinstance(request, TrainRequest)] == [False] * 2
    assert asked.received is None  # other rounds would have other judges
    executor.replies = (judged(0, [1, 0], [2, 2], [0.1, 0.1]), judged(1, [2, 1], [2, 2], [0.1, 0.1]))
    judgement = asked.evaluate(WEIGHTS)
    assert executor.asked[2:] == [EvaluateRequest(client, 4, WEIGHTS) for client in (0, 1)]
    assert (judgement.clients, judgement.correct.tolist()) == ((0, 1), [[1, 0], [2, 1]])


def test_a_sample_of_clients_that_all_receive_the_model_judges_no_earlier_than_other_samples() -> None:
    pool = ClientModels(models=["global", partial(SmallCNN, width=2)]).pool(POOL.blueprint, 4, seed=0)
    for clients in ((0, 2), (0, 1)):
        said = (replace(trained(client, [1, 0], [2, 2]), judgement={}) for client in clients)
        executor = Scripted(*(replace(reply, model={}) if pool.keeps_own(reply.client) else reply for reply in said))
        plan = RoundPlan(4, 9, clients, 1, 0.0, 0.1, distillation=(1, 1))
        asked = Cohort(executor, plan, pool, judge_received=True)
        asked.train(WEIGHTS, Uploads)
        assert not any(request.judge for request in executor.asked if isinstance(request, TrainRequest))
        assert asked.received is None


def test_nobody_has_judged_what_nobody_received() -> None:
    pool = ClientModels(models=[partial(SmallCNN, width=2)]).pool(POOL.blueprint, 1, seed=0)
    executor = Scripted(replace(trained(0, [1, 0], [2, 2]), model={}, judgement={}))
    asked = Cohort(executor, RoundPlan(4, 9, (0,), 1, 0.0, 0.1, distillation=(1, 1)), pool, judge_received=True)
    asked.train(WEIGHTS, Uploads)
    assert asked.received is None


def test_clients_that_all_have_no_images_are_asked_nothing() -> None:
    executor = Scripted(trained(1, [0, 0], [0, 0]))
    assert after_training(executor, 1).evaluate(MODEL).total.sum() == 0
    assert len(executor.asked) == 1


# who is sent what


def trains(
    pool: ModelPool,
    model: StateDict,
    collect: type[Uploads] = KeptUploads,
    keep: tuple[int, ...] = (),
    **returned: StateDict,
) -> list[TrainRequest]:
    """What clients 0, 1 and 2 are asked."""
    executor = Scripted(*(TrainReply(client, {}, torch.ones(3), {}, {}) for client in range(3)))
    plan = RoundPlan(4, 9, (0, 1, 2), 5, 0.5, 0.1, distillation=(1, 1))
    sent_back = {client.removeprefix("client_"): own for client, own in returned.items()}
    Cohort(executor, plan, pool, faults=Faults(quorum=0)).train(model, collect, keep, sent_back)
    return [request for request in executor.asked if isinstance(request, TrainRequest)]


def test_with_one_network_for_all_everybody_gets_it_whole(blueprint: Blueprint) -> None:
    model = blueprint.initial(0)
    asked = trains(same_models(blueprint, 3), model, keep=(2,))
    assert [request.client for request in asked] == [0, 1, 2]
    assert all(request.model is model for request in asked)
    assert [request.keep for request in asked] == [False, False, True]
    assert all(request.upload for request in asked)
    assert {(r.round, r.steps, r.epochs, r.learning_rate) for r in asked} == {(4, 5, 0.5, 0.1)}


@pytest.mark.parametrize("collect", [KeptUploads, Uploads])
def test_narrow_clients_get_their_part_and_upload_it(blueprint: Blueprint, collect: type[Uploads]) -> None:
    pool, model = ClientModels(levels=[1.0, 0.5, 0.25]).pool(blueprint, 3, seed=0), blueprint.initial(0)
    asked = trains(pool, model, collect)
    for client, request in enumerate(asked):
        assert {name: tensor.shape for name, tensor in request.model.items()} == pool.of(client).shapes
    expected = pool.part(model, 1, round=4)
    assert all(torch.equal(asked[1].model[name], expected[name]) for name in expected)
    assert all(request.upload and not request.keep for request in asked)


@pytest.mark.parametrize(("collect", "wanted"), [(KeptUploads, True), (Uploads, False)])
def test_clients_with_their_own_model_keep_it_and_upload_where_it_is_needed(
    blueprint: Blueprint, collect: type[Uploads], wanted: bool
) -> None:
    pool = ClientModels(models=["global", partial(SmallCNN, width=2), LinearNet]).pool(blueprint, 3, seed=0)
    model = blueprint.initial(0)
    asked = trains(pool, model, collect)
    assert asked[0].model is model
    assert [request.model for request in asked[1:]] == [{}, {}]
    assert [request.keep for request in asked] == [False, True, True]
    assert [request.upload for request in asked] == [True, wanted, wanted]


def test_what_comes_back_goes_to_the_client_that_it_is_for(blueprint: Blueprint) -> None:
    pool = ClientModels(models=["global", LinearNet]).pool(blueprint, 3, seed=0)
    better = pool.of(1).initial(5)
    asked = trains(pool, blueprint.initial(0), client_1=better)
    assert asked[1].model is better
    assert asked[1].keep


def test_only_those_that_can_run_the_whole_network_are_asked_to_judge_it(blueprint: Blueprint) -> None:
    pool = ClientModels(levels=[1.0, 0.5], evaluate_whole=False).pool(blueprint, 4, seed=0)
    executor = Scripted(
        judged(0, [3, 0, 1], [4, 0, 1], [0.5, 0.0, 0.0]), judged(2, [1, 2, 0], [5, 6, 0], [7.0, 8.0, 0.0])
    )
    plan = RoundPlan(4, 9, (0, 1, 2, 3), 1, 0.0, 0.1, distillation=(1, 1))
    judgement = Cohort(executor, plan, pool).evaluate(MODEL)
    assert executor.asked == [EvaluateRequest(0, 4, MODEL), EvaluateRequest(2, 4, MODEL)]
    assert judgement.correct.tolist() == [[3, 0, 1], [1, 2, 0]]


def test_where_nobody_can_run_the_whole_network_nothing_is_known_of_it(blueprint: Blueprint) -> None:
    unable, executor = ClientModels(levels=[0.5], evaluate_whole=False), Scripted()
    pool = unable.pool(blueprint, 2, seed=0)
    plan = RoundPlan(4, 9, (0, 1), 1, 0.0, 0.1, distillation=(1, 1))
    judgement = Cohort(executor, plan, pool).evaluate(MODEL)
    assert executor.asked == []
    assert judgement.total.sum() == 0
    assert judgement.figures() == (0, 0)


# which of two models is better


def judgement(correct: list[list[int]], loss: list[list[float]]) -> Judgement:
    return Judgement(
        torch.tensor(correct),
        torch.full((len(correct), len(correct[0])), 10),
        torch.tensor(loss),
        (1, 6)[: len(correct)],
    )


def test_figures_count_all_clients_and_all_classes_alike() -> None:
    correct, loss = judgement([[1, 2], [3, 4]], [[8.0, 16.0], [0.0, 4.0]]).figures()
    assert (correct, loss) == (10, pytest.approx(28 / 40))


def test_more_right_images_are_better_whatever_the_loss() -> None:
    assert judgement([[3, 4]], [[99.0, 99.0]]).merit() > judgement([[6, 0]], [[0.1, 0.1]]).merit()


def test_between_equals_the_surer_model_is_better() -> None:
    assert judgement([[3, 4]], [[1.0, 2.0]]).merit() > judgement([[7, 0]], [[2.0, 2.0]]).merit()
    assert judgement([[3, 4]], [[1.0, 2.0]]).merit() == judgement([[4, 3]], [[2.0, 1.0]]).merit()


def test_a_loss_that_is_no_number_is_no_better() -> None:
    diverged = judgement([[3, 4]], [[float("nan"), 1.0]])
    assert not diverged.merit() >= judgement([[3, 4]], [[9.0, 9.0]]).merit()


def test_without_validation_images_all_models_are_equal() -> None:
    none = torch.zeros(2, 3)
    assert Judgement(none.long(), none.long(), none.double(), (1, 6)).merit() == (0, 0)


def test_without_judging_nobody_is_asked_to_judge() -> None:
    executor = Scripted()
    plan = RoundPlan(4, 9, (0, 1), 1, 0.0, 0.1, distillation=(1, 1))
    silent = Cohort(executor, plan, POOL, judge_received=True, judging=False)
    assert silent.received is None
    assert silent.evaluate(MODEL).clients == ()
    assert executor.asked == []


def test_prototypes_of_a_model_are_asked_for_once() -> None:
    none = torch.zeros(0, dtype=torch.long)
    executor = Scripted(PrototypeReply(1, torch.zeros(0, 4), none, none))
    clients, model = cohort(executor, 1), POOL.blueprint.initial(0)
    first = clients.prototypes(model)
    assert clients.prototypes(model) is first
    assert len(executor.asked) == 1
    clients.prototypes(dict(model))
    assert len(executor.asked) == 2, "another model's are others"
