"""What a server believes of a client: nothing that it has not checked."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from mosaic.client.prototypes import PrototypeSettings
from mosaic.messages import (
    EvaluateReply,
    Failed,
    GeneratorReply,
    PrototypeReply,
    ReleaseReply,
    Reply,
    Request,
    StateDict,
    TrainReply,
)
from mosaic.model_pool import ClientModels, ModelPool
from mosaic.nets import Blueprint, Classifier, SmallCNN
from mosaic.nets.classifier import ImageShape
from mosaic.server.asking import QuorumError
from mosaic.server.cohort import Cohort
from mosaic.server.context import RoundPlan
from mosaic.server.faults import Faults
from mosaic.server.uploads import KeptUploads, Uploads
from tests.cases import for_each
from tests.small_runs import LinearNet, same_models

COUNTS = torch.tensor([2, 0, 3])
METRICS = {"loss": 0.5, "steps": 3, "validation_images": 0}
PLAN = RoundPlan(4, 9, (1, 5), 3, 0.0, 0.1, distillation=(1, 1))


class Scripted:
    """Client 1 answers as the test says, client 5 as it should."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = replies

    def map(self, requests: Iterable[Request], deadline: float | None = None) -> Iterator[Reply]:
        return iter(self.replies[: len(list(requests))])


@pytest.fixture
def pool(blueprint: Blueprint) -> ModelPool:
    return same_models(blueprint, 6)


@pytest.fixture
def model(blueprint: Blueprint) -> StateDict:
    return blueprint.initial(0)


def with_one(tensor: torch.Tensor, value: float) -> torch.Tensor:
    other = tensor.clone()
    other.view(-1)[0] = value
    return other


def trained(pool: ModelPool, model: StateDict, reply: Reply, images: dict[int, int]) -> list[int]:
    """Which clients' uploads are believed."""
    cohort = Cohort(
        Scripted(reply, TrainReply(5, model, COUNTS, METRICS, {})), PLAN, pool, images, faults=Faults(quorum=0)
    )
    return cohort.train(model, Uploads).clients


def spoilt(name: str, value: float) -> Any:
    """A way to spoil one number of an uploaded tensor."""
    return lambda good: with_tensor(good, name, with_one(good.model[name], value))


def with_tensor(good: TrainReply, name: str, tensor: Any) -> TrainReply:
    return replace(good, model={**good.model, name: tensor})


def counting(counts: torch.Tensor) -> Any:
    return lambda good: replace(good, class_counts=counts)


BAD_UPLOADS = [
    (lambda good: replace(good, client=2), "expected its own, got that of client 2"),
    (lambda good: PrototypeReply(1, *torch.zeros(3, 1)), "expected a TrainReply, got a PrototypeReply"),
    (spoilt("head.weight", torch.nan), "model.head.weight: expected finite numbers"),
    (spoilt("head.bias", torch.inf), "model.head.bias: expected finite numbers"),
    (spoilt("head.weight", 1e6), "model: expected no number beyond 1e+05, got 1e+06"),
    (lambda good: with_tensor(good, "head.bias", None), "expected what can be read, got AttributeError"),
    (lambda good: replace(good, class_counts=[2, 0, 3]), "expected what can be read, got AttributeError"),
    (lambda good: replace(good, metrics="fine"), "expected what can be read, got AttributeError"),
    (lambda good: with_tensor(good, "head.bias", torch.zeros(1)), "got torch.float32 of shape (1,)"),
    (lambda good: with_tensor(good, "head.bias", torch.zeros(3).double()), "got torch.float64"),
    (lambda good: with_tensor(good, "strange", torch.zeros(2)), "got 1 others, first ['strange']"),
    (lambda good: replace(good, model={}), "are missing"),
    (counting(COUNTS * 2**40), "class_counts: expected counts in 0..5"),
    (counting(torch.tensor([4, -2, 3])), "class_counts: expected counts in 0..5"),
    (counting(torch.tensor([2, 2, 2])), "expected 1..5 images in all, got 6"),
    (counting(COUNTS * 0), "expected 1..5 images in all, got 0"),
    (counting(COUNTS.float()), "class_counts: expected torch.int64"),
    (counting(COUNTS[:2]), "of shape (2,)"),
    (lambda good: replace(good, metrics={"loss": torch.nan, "steps": 3}), "metrics.loss: expected a finite number"),
    (spoilt("body.1.running_var", -0.1), "model.body.1.running_var: expected no negative variance"),
    (
        spoilt("body.1.num_batches_tracked", 2**62),
        "num_batches_tracked: expected whole numbers of at most 10000000",
    ),
    (spoilt("normalize.mean", 3.0), "model.normalize.mean: expected [0.5], got [3.0]"),
    (spoilt("normalize.std", -0.25), "model.normalize.std: expected [0.25], got [-0.25]"),
    (lambda good: replace(good, metrics={**METRICS, "\x1b[2J": 1.0}), "names of letters and digits"),
    *(
        (
            lambda good, steps=steps: replace(good, metrics={**METRICS, "steps": steps}),
            f"metrics.steps: expected a whole number in 0..10000000, got {steps}",
        )
        for steps in (-1_000_000, 2.5, True, 10**18)
    ),
    (
        lambda good: replace(good, judgement=EvaluateReply(1, COUNTS, COUNTS, COUNTS.double()).judgement),
        "judgement: expected the agreed tensors, got 3 others, first ['correct']",
    ),
    (
        lambda good: replace(good, metrics={"loss": 0.5, "validation_images": 0}),
        "metrics.steps: expected a whole number in 0..10000000, got None",
    ),
]


@pytest.mark.parametrize(("spoil", "said"), BAD_UPLOADS, ids=[said for _, said in BAD_UPLOADS])
def test_an_upload_that_cannot_be_meant_is_refused_under_its_client_and_the_round_goes_on(
    spoil: Any, said: str, pool: ModelPool, model: StateDict, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("mosaic"), "propagate", True)
    good = TrainReply(1, model, COUNTS, METRICS, {})
    with caplog.at_level(logging.WARNING, "mosaic"):
        assert trained(pool, model, spoil(good), {1: 5}) == [5]
    assert "round 4: client 1 failed: its reply was refused" in caplog.text
    assert said in caplog.text
    assert trained(pool, model, good, {1: 5}) == [1, 5]


def test_a_round_goes_on_without_the_refused_upload(pool: ModelPool, model: StateDict) -> None:
    bad = spoilt("head.bias", torch.nan)(TrainReply(1, model, COUNTS, METRICS, {}))
    refused: list[tuple[int, str]] = []
    cohort = Cohort(
        Scripted(bad, TrainReply(5, model, COUNTS, METRICS, {})), PLAN, pool,
        on_missing=lambda request, reason: refused.append((request.client, reason)),
    )  # fmt: skip
    mean = cohort.train(model, Uploads).average()
    assert all(torch.equal(mean[name], tensor) for name, tensor in model.items())
    assert refused == [(1, "its reply was refused: model.head.bias: expected finite numbers, got infinite ones or NaN")]


def test_clients_with_own_and_narrow_models_are_held_to_those(blueprint: Blueprint) -> None:
    model = blueprint.initial(0)
    for models in (ClientModels(models=["global", partial(SmallCNN, width=2)]), ClientModels(levels=[1.0, 0.5])):
        pool = models.pool(blueprint, 6, seed=0)
        own = pool.of(1).initial(0)
        assert trained(pool, model, TrainReply(1, model, COUNTS, METRICS, {}), {}) == []
        replies = TrainReply(1, own, COUNTS, METRICS, {}), TrainReply(5, own, COUNTS, METRICS, {})
        uploads = Cohort(Scripted(*replies), PLAN, pool, faults=Faults(quorum=0)).train(model, KeptUploads)
        assert uploads.clients == [1, 5]


def test_generators_are_held_to_the_agreed_one(pool: ModelPool) -> None:
    agreed = {"w": torch.zeros(2, device="meta")}
    metrics, curves = {"attempts": 1, "steps": 3, "discriminator_steps": 3}, {"adversarial": torch.ones(3)}
    good = GeneratorReply(1, {"w": torch.zeros(2)}, COUNTS, metrics, curves)
    bad = [
        replace(good, generator={"w": torch.zeros(3)}),
        replace(good, generator={"w": torch.tensor([0.0, torch.nan])}),
        replace(good, generator={"w": torch.tensor([0.0, 1e30])}),
        replace(good, generator={}),
        replace(good, class_counts=-COUNTS),
        replace(good, metrics={"steps": 3}),
        replace(good, curves={"adversarial": torch.tensor([torch.inf])}),
        replace(good, curves={"adversarial": torch.ones(3, 2)}),
        replace(good, curves={"adversarial": torch.tensor(1.0)}),
        replace(good, curves={str(number): torch.ones(3) for number in range(257)}),
        replace(good, curves={"a\nb": torch.ones(3)}),
        replace(good, metrics={**metrics, **{str(number): 1.0 for number in range(257)}}),
    ]
    for reply, believed in ((good, 1), *((reply, 0) for reply in bad)):
        assert (
            len(Cohort(Scripted(reply), PLAN, pool, faults=Faults(quorum=0)).generators([1], lambda _: agreed))
            == believed
        )


def test_prototypes_lie_in_the_features_and_stand_for_images_that_are_there(pool: ModelPool, model: StateDict) -> None:
    features = model["head.weight"].shape[1]
    good = PrototypeReply(1, torch.zeros(2, features), torch.tensor([0, 2]), torch.tensor([3, 2]))
    none = PrototypeReply(5, torch.zeros(0, features), torch.zeros(0).long(), torch.zeros(0).long())
    bad = [
        replace(good, prototypes=torch.zeros(2, features + 1)),
        replace(good, prototypes=torch.full((2, features), torch.nan)),
        replace(good, prototypes=torch.full((2, features), 1e30)),
        replace(good, prototypes=torch.zeros(features)),
        replace(good, labels=torch.tensor([0, 3])),
        replace(good, labels=torch.tensor([-1, 0])),
        replace(good, sizes=torch.tensor([0, 1])),
        replace(good, sizes=torch.tensor([6, 1])),
        replace(good, sizes=torch.tensor([3, 3])),
        replace(good, sizes=torch.tensor([1])),
    ]
    for reply, believed in ((good, [1, 5]), *((reply, [5]) for reply in bad)):
        cohort = Cohort(Scripted(reply, none), PLAN, pool, {1: 5, 5: 5})
        assert [found.client for found in cohort.prototypes(model)] == believed


def test_prototypes_lie_in_the_features_of_a_head_of_several_layers_too() -> None:
    def two_layers(image_shape: ImageShape, num_classes: int) -> Classifier:
        net = LinearNet(image_shape, num_classes)
        net.head = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, num_classes))
        return net

    pool = same_models(Blueprint(two_layers, (1, 2, 2), 3, (0.5,), (0.25,)), 6)
    model, one = pool.blueprint.initial(0), torch.ones(1).long()
    for width, believed in ((4, [1, 5]), (5, [5])):
        replies = [PrototypeReply(1, torch.zeros(1, width), one, one), PrototypeReply(5, torch.zeros(1, 4), one, one)]
        assert [each.client for each in Cohort(Scripted(*replies), PLAN, pool).prototypes(model)] == believed


def test_who_has_answered_in_an_earlier_round_counts_for_the_quorum(pool: ModelPool) -> None:
    """One client of two that is asked again and again in vain does not end a run that goes on without it."""
    noise = {"counts": 1.0, "means": 2.0, "moments": 3.0}
    for known, enough in (([5], True), ([2], False), ([], False)):
        cohort = Cohort(Scripted(Failed(1, "gone")), PLAN, pool, faults=Faults(quorum=0.5))
        for ask in (
            partial(cohort.releases, [1], 2, noise, known),
            partial(cohort.generators, [1], lambda _: StateDict(), known),
        ):
            with nullcontext() if enough else pytest.raises(QuorumError, match="of the 1 clients asked"):
                assert ask() == []


def test_prototypes_are_as_many_and_as_large_as_all_have_agreed_on(pool: ModelPool, model: StateDict) -> None:
    features = model["head.weight"].shape[1]

    def believed(labels: list[int], sizes: list[int], **settings: int) -> bool:
        reply = PrototypeReply(1, torch.zeros(len(labels), features), torch.tensor(labels), torch.tensor(sizes))
        cohort = Cohort(
            Scripted(reply), replace(PLAN, clients=(1,)), pool, faults=Faults(quorum=0),
            prototypes=PrototypeSettings(**settings),
        )  # fmt: skip
        return len(cohort.prototypes(model)) == 1

    assert believed([0, 0, 2], [5, 9, 5], clusters_per_class=2)
    assert not believed([0, 0, 2], [5, 9, 5], clusters_per_class=1)
    assert not believed([0, 2], [5, 4], min_count=5)
    assert believed([0, 2], [5, 4], min_count=4)


def test_nobody_judges_by_more_images_than_it_can_have(pool: ModelPool, model: StateDict) -> None:
    """One client that claims two thousand million would decide alone."""
    reply = EvaluateReply(1, *(torch.tensor([1, 0, 3]),) * 2, torch.zeros(3).double())
    for most, believed in (({1: 4}, 1), ({1: 3}, 0), ({}, 1)):
        cohort = Cohort(
            Scripted(reply), replace(PLAN, clients=(1,)), pool, faults=Faults(quorum=0), validation=most
        )  # fmt: skip
        assert len(cohort.evaluate(model).total) == believed


def test_nobody_judges_more_images_right_than_there_are(pool: ModelPool, model: StateDict) -> None:
    good = EvaluateReply(
        1, torch.tensor([1, 0, 2]), torch.tensor([1, 0, 3]), torch.tensor([1.0, 0.0, torch.inf]).double()
    )
    bad = [
        replace(good, correct=torch.tensor([2, 0, 0])),
        replace(good, correct=torch.tensor([-1, 0, 0])),
        replace(good, total=torch.tensor([1.0, 0.0, 3.0])),
        replace(good, loss=-torch.ones(3).double()),
        replace(good, loss=torch.ones(3)),
    ]
    other = replace(good, client=5)
    for reply, believed in ((good, 2), *((reply, 1) for reply in bad)):
        assert len(Cohort(Scripted(reply, other), PLAN, pool).evaluate(model).total) == believed


@for_each(
    "spoil, said",
    [
        (lambda good: replace(good, client=2), "expected its own"),
        (lambda good: replace(good, counts=good.counts.long()), "counts: expected torch.float32"),
        (lambda good: replace(good, sums=good.sums[:, :1]), "sums: expected torch.float32 of shape (3, 2)"),
        (lambda good: replace(good, moments=torch.zeros(3, 4)), "moments: expected torch.float32 of shape (3, 3)"),
        (lambda good: replace(good, sums=with_one(good.sums, torch.nan)), "sums: expected finite numbers"),
        (lambda good: replace(good, counts=with_one(good.counts, 1e30)), "counts: expected no number beyond"),
        (lambda good: replace(good, sums=with_one(good.sums, 1e3)), "sums: expected sums that so many images can have"),
        (lambda good: replace(good, moments=with_one(good.moments, -1e3)), "moments: expected sums that so many"),
    ],
)
def test_released_sums_are_inspected_too(spoil: Any, said: str, pool: ModelPool) -> None:
    good = ReleaseReply(1, torch.tensor([-3.0, 0.5, 9.0]), torch.zeros(3, 2), torch.zeros(3, 3))
    reasons: list[str] = []

    def release(reply: Reply) -> list[int]:
        cohort = Cohort(
            Scripted(reply), PLAN, pool, faults=Faults(quorum=0), on_missing=lambda _, reason: reasons.append(reason)
        )
        return [each.client for each in cohort.releases([1], 2, {"counts": 1.0, "means": 2.0, "moments": 3.0})]

    assert release(good) == [1], "noisy counts may be negative"
    assert release(spoil(good)) == []
    assert said in reasons[0]
