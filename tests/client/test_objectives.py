from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mosaic.client.objectives import (
    CrossEntropy,
    LocalContext,
    LocalObjective,
    PriorAdjusted,
    Proximal,
    RestrictedSoftmax,
    VacantClass,
)
from mosaic.errors import MosaicError
from mosaic.losses.local import logit_suppression, vacant_class_distillation
from mosaic.losses.priors import label_prior
from mosaic.nets import Blueprint, Classifier
from tests.cases import for_each


@pytest.fixture
def net(blueprint: Blueprint) -> Classifier:
    return blueprint.build(blueprint.initial(0)).eval()


@pytest.fixture
def batch(random: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.rand(6, 1, 8, 8, generator=random), torch.tensor([0, 0, 1, 1, 2, 2])


def context(blueprint: Blueprint, counts: list[int]) -> LocalContext:
    return LocalContext(blueprint.initial(0), torch.tensor(counts), blueprint)


def test_cross_entropy_is_plain(blueprint: Blueprint, net: Classifier, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    loss = CrossEntropy().bind(context(blueprint, [9, 0, 1]))
    assert torch.equal(loss(net, images, labels), F.cross_entropy(net(images), labels))


def test_a_client_with_equal_counts_has_nothing_to_adjust(
    blueprint: Blueprint, net: Classifier, batch: tuple[Tensor, Tensor]
) -> None:
    adjusted = PriorAdjusted().bind(context(blueprint, [5, 5, 5]))(net, *batch)
    plain = CrossEntropy().bind(context(blueprint, [5, 5, 5]))(net, *batch)
    assert adjusted.item() == pytest.approx(plain.item(), rel=1e-5)


def loss_of(blueprint: Blueprint, net: Classifier, objective: LocalObjective, counts: list[int], label: int) -> float:
    loss = objective.bind(context(blueprint, counts))
    return loss(net, torch.full((2, 1, 8, 8), 0.5), torch.tensor([label, label])).item()


def test_frequent_classes_are_taken_for_granted_and_rare_ones_are_not(blueprint: Blueprint, net: Classifier) -> None:
    plain = [loss_of(blueprint, net, CrossEntropy(), [8, 0, 2], label) for label in (0, 2)]
    adjusted = [loss_of(blueprint, net, PriorAdjusted(), [8, 0, 2], label) for label in (0, 2)]
    assert adjusted[0] < plain[0]
    assert adjusted[1] > plain[1]


def test_absent_classes_keep_the_adjusted_loss_finite(
    blueprint: Blueprint, net: Classifier, batch: tuple[Tensor, Tensor]
) -> None:
    value = PriorAdjusted().bind(context(blueprint, [10_000, 0, 0]))(net, *batch)
    value.backward()
    assert value.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())


def test_epsilon_softens_the_adjustment(blueprint: Blueprint, net: Classifier) -> None:
    plain = loss_of(blueprint, net, CrossEntropy(), [8, 0, 2], label=1)
    hard, soft = (loss_of(blueprint, net, PriorAdjusted(epsilon), [8, 0, 2], label=1) for epsilon in (0.01, 1e4))
    assert soft == pytest.approx(plain, rel=1e-3)
    assert hard > soft + 1


@for_each(
    ("objective", "adjusts"),
    [
        (CrossEntropy(), False),
        (PriorAdjusted(), True),
        (Proximal(), False),
        (RestrictedSoftmax(), False),
        (VacantClass(), True),
        (VacantClass(adjust_prior=False), False),
    ],
)
def test_an_objective_says_whether_its_logits_lack_the_prior(objective: LocalObjective, adjusts: bool) -> None:
    assert objective.adjusts_prior is adjusts


# FedProx


def values_and_gradients(
    objective: LocalObjective, context: LocalContext, net: Classifier, batch: tuple[Tensor, Tensor]
) -> list[Tensor]:
    """The loss of one batch, then its gradient for every parameter."""
    value = objective.bind(context)(net, *batch)
    return [value, *torch.autograd.grad(value, list(net.parameters()))]


def assert_same_training(one: list[Tensor], other: list[Tensor]) -> None:
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))


def test_proximal_adds_the_squared_distance_of_parameters(
    blueprint: Blueprint, drifted: Classifier, batch: tuple[Tensor, Tensor]
) -> None:
    sent = context(blueprint, [3, 3, 3])
    for name, buffer in drifted.named_buffers():
        if "running" in name:
            buffer += 100  # statistics are no parameters
    moved = {name: own.detach() - sent.received[name] for name, own in drifted.named_parameters()}
    squares = sum(np.square(difference.double().numpy()).sum() for difference in moved.values())
    value, *gradients = values_and_gradients(Proximal(mu=0.3), sent, drifted, batch)
    plain, *without = values_and_gradients(CrossEntropy(), sent, drifted, batch)
    assert value.item() == pytest.approx(plain.item() + 0.15 * squares)
    for gradient, other, difference in zip(gradients, without, moved.values(), strict=True):
        torch.testing.assert_close(gradient - other, 0.3 * difference, rtol=1e-4, atol=1e-5)


def test_frozen_parameters_do_not_count(
    blueprint: Blueprint, drifted: Classifier, batch: tuple[Tensor, Tensor]
) -> None:
    sent = context(blueprint, [3, 3, 3])
    drifted.body.requires_grad_(False)
    drifted.body.load_state_dict(blueprint.build(sent.received).body.state_dict())  # frozen, so as they came
    moved = [own.detach() - sent.received[f"head.{name}"] for name, own in drifted.head.named_parameters()]
    squares = sum(np.square(difference.double().numpy()).sum() for difference in moved)
    value, plain = (objective.bind(sent)(drifted, *batch) for objective in (Proximal(mu=2), CrossEntropy()))
    assert value.item() == pytest.approx(plain.item() + squares)


def test_a_model_that_has_not_moved_is_not_pulled(
    blueprint: Blueprint, net: Classifier, batch: tuple[Tensor, Tensor]
) -> None:
    sent = context(blueprint, [9, 0, 1])
    pulled = values_and_gradients(Proximal(mu=50), sent, net, batch)
    assert_same_training(pulled, values_and_gradients(CrossEntropy(), sent, net, batch))


def test_proximal_of_weight_zero_is_left_out_and_not_multiplied(
    blueprint: Blueprint, drifted: Classifier, batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mosaic.client.objectives.proximal_term", lambda *_: torch.tensor(torch.nan))
    sent = context(blueprint, [9, 0, 1])
    assert Proximal().bind(sent)(drifted, *batch).isnan()
    zero = values_and_gradients(Proximal(mu=0), sent, drifted, batch)
    assert_same_training(zero, values_and_gradients(CrossEntropy(), sent, drifted, batch))


def test_a_narrow_client_is_held_to_its_own_part(blueprint: Blueprint, batch: tuple[Tensor, Tensor]) -> None:
    narrow = blueprint.scaled(0.5)
    sent = LocalContext(narrow.initial(0), torch.tensor([3, 3, 3]), narrow)
    loss, plain = Proximal(mu=2).bind(sent), CrossEntropy().bind(sent)
    net = narrow.build(sent.received).eval()
    assert torch.equal(loss(net, *batch), plain(net, *batch))
    with torch.no_grad():
        net.head.bias += 1
    assert loss(net, *batch).item() == pytest.approx(plain(net, *batch).item() + 3)  # three classes, each 1 away


def test_the_anchor_stays_while_the_model_trains(
    blueprint: Blueprint, net: Classifier, batch: tuple[Tensor, Tensor]
) -> None:
    sent = context(blueprint, [3, 3, 3])
    before = {name: tensor.clone() for name, tensor in sent.received.items()}
    loss = Proximal(mu=2).bind(sent)
    for steps in (1, 2):
        with torch.no_grad():
            net.head.bias += 1
        plain = F.cross_entropy(net(batch[0]), batch[1])
        assert loss(net, *batch).item() == pytest.approx(plain.item() + 3 * steps**2, rel=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in sent.received.items())


# FedRS


def test_restricted_softmax_scales_whole_logits(
    blueprint: Blueprint, net: Classifier, batch: tuple[Tensor, Tensor]
) -> None:
    images, labels = batch
    value = RestrictedSoftmax(alpha=0.5).bind(context(blueprint, [6, 3, 0]))(net, images, labels)
    scores = np.array([1, 0.75, 0.5]) * net(images).detach().double().numpy()
    chances = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    assert value.item() == pytest.approx(-np.log(chances[np.arange(6), labels]).mean(), rel=1e-5)


def test_restriction_does_not_fade_from_batch_to_batch(
    blueprint: Blueprint, net: Classifier, batch: tuple[Tensor, Tensor]
) -> None:
    loss = RestrictedSoftmax(alpha=0.1).bind(context(blueprint, [6, 3, 0]))  # one released version scales the scales
    assert torch.equal(loss(net, *batch), loss(net, *batch))


def test_alpha_of_one_is_cross_entropy_bit_for_bit(
    blueprint: Blueprint, net: Classifier, batch: tuple[Tensor, Tensor]
) -> None:
    sent = context(blueprint, [9, 0, 1])
    ours = values_and_gradients(RestrictedSoftmax(alpha=1), sent, net, batch)
    assert_same_training(ours, values_and_gradients(CrossEntropy(), sent, net, batch))


# FedVLS


@pytest.fixture
def forwarded(monkeypatch: pytest.MonkeyPatch) -> list[Classifier]:
    """Every classifier that has been asked, in the order of the questions."""
    nets: list[Classifier] = []
    forward = Classifier.forward

    def noted(net: Classifier, images: Tensor) -> Tensor:
        nets.append(net)
        return forward(net, images)

    monkeypatch.setattr(Classifier, "forward", noted)
    return nets


@pytest.fixture
def drifted(blueprint: Blueprint) -> Classifier:
    """A network that is no longer the received one."""
    return blueprint.build(blueprint.initial(1)).eval()


def test_vacant_class_adds_two_weighed_terms(
    blueprint: Blueprint, net: Classifier, drifted: Classifier, batch: tuple[Tensor, Tensor]
) -> None:
    counts, (images, labels) = [9, 0, 0], batch
    value = VacantClass(suppression=0.3, distillation=2.0).bind(context(blueprint, counts))(drifted, *batch)
    logits = drifted(images)
    suppressed = logit_suppression(logits, labels, label_prior(torch.tensor(counts)))
    forgotten = vacant_class_distillation(logits, net(images), torch.tensor([False, True, True]))
    adjusted = PriorAdjusted().bind(context(blueprint, counts))(drifted, *batch)
    assert forgotten > 0
    assert value.item() == pytest.approx((adjusted + 0.3 * suppressed + 2 * forgotten).item())


def test_a_model_that_has_not_moved_has_nothing_to_remember(
    blueprint: Blueprint, net: Classifier, batch: tuple[Tensor, Tensor]
) -> None:
    adjusted = PriorAdjusted().bind(context(blueprint, [9, 0, 0]))(net, *batch)
    value = VacantClass(suppression=0, distillation=5).bind(context(blueprint, [9, 0, 0]))(net, *batch)
    assert value.item() == pytest.approx(adjusted.item())


@pytest.mark.parametrize("epsilon", [0.01, 1.0])
def test_without_both_terms_it_is_prior_adjustment_bit_for_bit(
    blueprint: Blueprint, drifted: Classifier, batch: tuple[Tensor, Tensor], epsilon: float
) -> None:
    adjusted = PriorAdjusted(epsilon).bind(context(blueprint, [9, 0, 0]))(drifted, *batch)
    value = VacantClass(0, 0, epsilon).bind(context(blueprint, [9, 0, 0]))(drifted, *batch)
    assert torch.equal(value, adjusted)


def test_without_both_terms_and_the_adjustment_it_is_cross_entropy_bit_for_bit(
    blueprint: Blueprint, drifted: Classifier, batch: tuple[Tensor, Tensor]
) -> None:
    sent = context(blueprint, [9, 0, 0])
    ours = values_and_gradients(VacantClass(0, 0, adjust_prior=False), sent, drifted, batch)
    assert_same_training(ours, values_and_gradients(CrossEntropy(), sent, drifted, batch))


def test_without_the_adjustment_both_terms_remain(
    blueprint: Blueprint, drifted: Classifier, batch: tuple[Tensor, Tensor]
) -> None:
    sent = context(blueprint, [9, 0, 0])
    adjusted, plain = (VacantClass(0.3, 2.0, adjust_prior=adjust).bind(sent) for adjust in (True, False))
    difference = (adjusted(drifted, *batch) - plain(drifted, *batch)).item()
    expected = PriorAdjusted().bind(sent)(drifted, *batch) - CrossEntropy().bind(sent)(drifted, *batch)
    assert abs(expected.item()) > 0.1
    assert difference == pytest.approx(expected.item(), rel=1e-4)


def test_suppression_of_weight_zero_is_left_out_and_not_multiplied(
    blueprint: Blueprint, net: Classifier, batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mosaic.client.objectives.logit_suppression", lambda *_: torch.tensor(torch.nan))
    loss, zero = (VacantClass(suppression=weight).bind(context(blueprint, [9, 0, 0])) for weight in (0.1, 0.0))
    assert loss(net, *batch).isnan()
    assert zero(net, *batch).isfinite()


@pytest.mark.parametrize(
    ("counts", "distillation", "asked"),
    [([9, 0, 0], 0.1, True), ([9, 0, 0], 0.0, False), ([9, 0, 5], 0.1, False), ([9, 1, 5], 0.1, False)],
    ids=["two absent", "weight 0", "one absent", "none absent"],
)
def test_the_received_model_is_asked_only_where_it_can_help(
    blueprint: Blueprint,
    drifted: Classifier,
    batch: tuple[Tensor, Tensor],
    forwarded: list[Classifier],
    counts: list[int],
    distillation: float,
    asked: bool,
) -> None:
    loss = VacantClass(distillation=distillation).bind(context(blueprint, counts))
    loss(drifted, *batch)
    assert any(net is not drifted for net in forwarded) is asked


def test_the_received_model_neither_learns_nor_follows_the_batches(
    blueprint: Blueprint, drifted: Classifier, batch: tuple[Tensor, Tensor], forwarded: list[Classifier]
) -> None:
    sent, before = context(blueprint, [9, 0, 0]), {key: value.clone() for key, value in drifted.state_dict().items()}
    loss = VacantClass().bind(sent)
    drifted.train()
    for _ in range(2):
        loss(drifted, *batch).backward()
    received, again = (net for net in forwarded if net is not drifted)
    assert received is again
    assert not received.training
    assert all(parameter.grad is None for parameter in received.parameters())
    assert all(torch.equal(value, sent.received[key]) for key, value in received.state_dict().items())
    moved = {key for key, value in drifted.state_dict().items() if not torch.equal(value, before[key])}
    assert any(key.endswith("running_mean") for key in moved)  # the net in training, by contrast


@for_each("counts", [[10_000, 0, 0], [6, 0, 0], [2, 2, 2]])
@for_each("labels", [[0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 2, 2]])
def test_the_gradient_of_vacant_class_is_finite(
    blueprint: Blueprint, drifted: Classifier, batch: tuple[Tensor, Tensor], counts: list[int], labels: list[int]
) -> None:
    value = VacantClass().bind(context(blueprint, counts))(drifted, batch[0], torch.tensor(labels))
    value.backward()
    assert value.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in drifted.parameters())


# refusals


@for_each(
    ("objective", "argument", "expected"),
    [
        (Proximal, {"mu": -1.0}, "0 or more"),
        (RestrictedSoftmax, {"alpha": -1.0}, r"a share in \[0, 1\]"),
        (RestrictedSoftmax, {"alpha": 1.5}, r"a share in \[0, 1\]"),
        (VacantClass, {"suppression": -1.0}, "0 or more"),
        (VacantClass, {"distillation": -1.0}, "0 or more"),
        (VacantClass, {"epsilon": 0.0}, "a number above 0"),
        (PriorAdjusted, {"epsilon": -1.0}, "a number above 0"),
    ],
)
def test_a_setting_out_of_range_is_refused(
    objective: type[LocalObjective], argument: dict[str, Any], expected: str
) -> None:
    ((name, value),) = argument.items()
    says = rf"^algorithm\.objective\.init_args\.{name}: expected {expected}, got {value}$"
    with pytest.raises(MosaicError, match=says):
        objective(**argument)
