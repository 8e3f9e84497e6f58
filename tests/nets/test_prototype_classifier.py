import pytest
import torch
from torch import Tensor, nn

from mosaic.nets import Blueprint
from mosaic.nets.prototype_classifier import PrototypeClassifier, PrototypeKernel, _nearest_others
from tests.test_heads import Headless


def clusters(random: torch.Generator, sizes: list[int]) -> tuple[Tensor, Tensor]:
    labels = torch.cat([torch.full((size,), label) for label, size in enumerate(sizes)])
    return 10 * torch.eye(len(sizes))[labels] + torch.randn(len(labels), len(sizes), generator=random), labels


def test_the_nearest_prototypes_win(random: torch.Generator) -> None:
    prototypes, labels = clusters(random, [5, 9, 2])
    votes = PrototypeKernel(prototypes, labels, 3)(10 * torch.eye(3))
    assert votes.argmax(1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("distance", [0.0, 1.0, 1e4])
def test_votes_are_probabilities_however_far_the_features(random: torch.Generator, distance: float) -> None:
    kernel = PrototypeKernel(*clusters(random, [5, 9, 2]), 3)
    votes = kernel(distance * torch.randn(20, 3, generator=random))
    assert (votes >= 0).all()
    torch.testing.assert_close(votes.sum(1), torch.ones(20))


def test_classes_count_alike_and_not_by_their_prototypes() -> None:
    angles = torch.arange(10.0)
    circle = torch.stack([angles.cos(), angles.sin()], dim=1)
    votes = PrototypeKernel(circle, torch.tensor([0] + [1] * 9), 2)(torch.zeros(1, 2))
    assert votes[0].tolist() == pytest.approx([0.5, 0.5], abs=1e-4)


def test_an_absent_class_gets_no_votes(random: torch.Generator) -> None:
    prototypes, labels = clusters(random, [4, 4])
    votes = PrototypeKernel(prototypes, 2 * labels, 4)(prototypes)
    assert (votes[:, [1, 3]] == 0).all()


@pytest.mark.parametrize("count", [1, 3])
def test_equal_prototypes_give_finite_votes(count: int) -> None:
    kernel = PrototypeKernel(torch.ones(count, 2), torch.zeros(count, dtype=torch.long), 2)
    assert kernel(torch.tensor([[1.0, 1.0], [50.0, 0.0]])).tolist() == [[1.0, 0.0], [1.0, 0.0]]


@pytest.mark.parametrize("chunk", [1, 3, 4, 7, 100])
def test_a_neighbour_is_nearest_among_all_others_whatever_the_chunk(random: torch.Generator, chunk: int) -> None:
    points = torch.randn(7, 2, generator=random)
    distances = (points[:, None] - points).norm(dim=2)
    expected = [min(row[:k].tolist() + row[k + 1 :].tolist()) for k, row in enumerate(distances)]
    torch.testing.assert_close(_nearest_others(points, chunk), torch.tensor(expected))


def test_no_distances_of_all_prototypes_to_all_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred clients with a hundred classes may send some ten thousand."""
    held: list[int] = []

    def noting(one: Tensor, other: Tensor) -> Tensor:
        held.append(len(one) * len(other))
        return (one - other.T).abs()

    monkeypatch.setattr(torch, "cdist", noting)
    PrototypeKernel(torch.arange(3000.0)[:, None], torch.zeros(3000).long(), 1)
    assert max(held) < 3000**2 / 2


def prototype_classifier(blueprint: Blueprint, random: torch.Generator) -> PrototypeClassifier:
    trunk = blueprint.build(blueprint.initial(0))
    width = trunk.features(torch.zeros(1, 1, 8, 8)).shape[1]
    kernel = PrototypeKernel(torch.randn(6, width, generator=random), torch.tensor([0, 0, 0, 1, 1, 1]), 3)
    return PrototypeClassifier(trunk, torch.zeros(width), torch.ones(width), nn.Linear(width, 3), kernel)


def test_it_says_log_probabilities_even_for_absent_classes(blueprint: Blueprint, random: torch.Generator) -> None:
    classifier = prototype_classifier(blueprint, random)
    classifier.head.bias[2] = -1e4
    scores = classifier(torch.rand(4, 1, 8, 8, generator=random))
    assert scores.isfinite().all()
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(4))


def test_it_is_frozen_and_in_eval_mode(blueprint: Blueprint, random: torch.Generator) -> None:
    classifier = prototype_classifier(blueprint, random)
    assert not any(module.training for module in classifier.modules())
    assert not any(parameter.requires_grad for parameter in classifier.parameters())


def test_the_order_of_prototypes_does_not_matter(random: torch.Generator) -> None:
    prototypes, labels = clusters(random, [5, 9, 2])
    one, other = PrototypeKernel(prototypes, labels, 3), PrototypeKernel(prototypes.flip(0), labels.flip(0), 3)
    features = torch.randn(7, 3, generator=random)
    torch.testing.assert_close(one(features), other(features))


def test_the_width_is_by_the_median_distance() -> None:
    kernel = PrototypeKernel(torch.tensor([[0.0], [1.0], [3.0], [103.0]]), torch.tensor([0, 0, 1, 1]), 2)
    assert kernel.width.item() == pytest.approx(0.7 * 1.0)  # nearest: 1, 1, 2, 100; PyTorch's median is the lower one


def standardising(blueprint: Blueprint, random: torch.Generator) -> tuple[PrototypeClassifier, Tensor, Tensor]:
    """A classifier whose features have another mean and deviation than 0 and 1, images, and their features."""
    trunk = blueprint.build(blueprint.initial(0)).eval()
    width = trunk.features(torch.zeros(1, 1, 8, 8)).shape[1]
    kernel = PrototypeKernel(torch.randn(6, width, generator=random), torch.tensor([0, 0, 0, 1, 1, 1]), 3)
    mean, std = torch.randn(width, generator=random), 0.5 + torch.rand(width, generator=random)
    images = torch.rand(5, 1, 8, 8, generator=random)
    both = PrototypeClassifier(trunk, mean, std, nn.Linear(width, 3), kernel)
    return both, images, (trunk.features(images) - mean) / std


def test_it_is_the_mean_of_head_and_kernel(blueprint: Blueprint, random: torch.Generator) -> None:
    both, images, features = standardising(blueprint, random)
    torch.testing.assert_close(both(images).exp(), (both.head(features).softmax(1) + both.kernel(features)) / 2)


def test_its_linear_part_is_the_head_on_standardised_features(blueprint: Blueprint, random: torch.Generator) -> None:
    both, images, features = standardising(blueprint, random)
    torch.testing.assert_close(both.linear_part().eval()(images), both.head(features))


def test_its_linear_part_takes_its_head_though_the_network_has_a_forward_of_its_own(random: torch.Generator) -> None:
    both, images, features = standardising(Blueprint(Headless, (1, 8, 8), 3, (0.5,), (0.25,)), random)
    torch.testing.assert_close(both.linear_part().eval()(images), both.head(features))
