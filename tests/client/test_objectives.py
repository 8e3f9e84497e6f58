import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mosaic.client.objectives import CrossEntropy, LocalContext, LocalObjective, PriorAdjusted
from mosaic.nets import Blueprint, Classifier


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


@pytest.mark.parametrize(("objective", "adjusts"), [(CrossEntropy(), False), (PriorAdjusted(), True)])
def test_an_objective_says_whether_its_logits_lack_the_prior(objective: LocalObjective, adjusts: bool) -> None:
    assert objective.adjusts_prior is adjusts
