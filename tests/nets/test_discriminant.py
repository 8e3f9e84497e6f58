"""The linear discriminant of a few examples."""

import numpy as np
import pytest
import torch
from torch import Tensor

from mosaic.nets.discriminant import linear_discriminant


def once(labels: Tensor) -> Tensor:
    return torch.ones_like(labels)


def examples(random: torch.Generator, classes: int = 4, each: int = 12, dim: int = 6) -> tuple[Tensor, Tensor]:
    labels = torch.arange(classes).repeat(each)
    spread = torch.randn(dim, dim, generator=random)
    noise = torch.randn(len(labels), dim, generator=random) @ spread
    return 3 * torch.randn(classes, dim, generator=random)[labels] + noise, labels


@pytest.mark.parametrize("shrinkage", [0.03, 0.1, 1.0])
def test_it_is_the_one_of_scikit_learn(shrinkage: float, random: torch.Generator) -> None:
    """Logits may differ by what is common to all classes."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    features, labels = examples(random)
    weight, bias = linear_discriminant(features.double(), labels, once(labels), 4, shrinkage)
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage, priors=np.full(4, 0.25))
    reference.fit(features.double().numpy(), labels.numpy())
    ours = features.double() @ weight.T + bias
    theirs = torch.tensor(reference.decision_function(features.double().numpy()))
    centred = (logits - logits.mean(1, keepdim=True) for logits in (ours, theirs))
    assert torch.allclose(*centred, atol=1e-8)


def test_an_example_counts_as_often_as_it_has_images(random: torch.Generator) -> None:
    features, labels = examples(random)
    sizes = torch.randint(1, 9, (len(labels),), generator=random)
    repeated = (each.repeat_interleave(sizes, dim=0) for each in (features, labels))
    for once_each, often in zip(
        linear_discriminant(features, labels, sizes, 4),
        linear_discriminant(*repeated, torch.ones(int(sizes.sum())), 4),
        strict=True,
    ):
        assert torch.allclose(once_each, often, rtol=1e-4, atol=1e-6)


def test_a_class_without_examples_has_no_weight(random: torch.Generator) -> None:
    features, labels = examples(random)
    with_more, alone = (linear_discriminant(features, labels, once(labels), count) for count in (6, 4))
    for more, few in zip(with_more, alone, strict=True):
        assert more.dtype == features.dtype
        assert torch.equal(more[:4], few)
        assert not more[4:].any()


def test_more_features_than_examples_are_no_other_formula(random: torch.Generator) -> None:
    """Features that are always 0 add nothing but room in which the ridge is thinner."""
    features, labels = examples(random)
    padded = torch.cat([features, torch.zeros(len(features), 94)], dim=1)
    share = 0.001
    weight, bias = linear_discriminant(padded, labels, once(labels), 4, share)
    ridge = share * 6 / 100  # of the same trace, spread over 100 features
    covariance = 1 - share
    expected = linear_discriminant(features, labels, once(labels), 4, ridge / (ridge + covariance))
    scale = ridge + covariance
    assert torch.allclose(weight[:, :6] * scale, expected[0], rtol=1e-4, atol=1e-5)
    assert torch.allclose(bias * scale, expected[1], rtol=1e-4, atol=1e-5)
    assert not weight[:, 6:].any()


def test_of_single_examples_the_nearest_wins(random: torch.Generator) -> None:
    features, others = torch.randn(5, 8, generator=random), torch.randn(50, 8, generator=random)
    weight, bias = linear_discriminant(features, torch.arange(5), torch.ones(5), 5)
    assert torch.equal((others @ weight.T + bias).argmax(1), torch.cdist(others, features).argmin(1))


def test_features_that_never_change_tell_nothing(random: torch.Generator) -> None:
    features, labels = examples(random)
    constant = torch.cat([features, torch.full((len(features), 2), 7.0)], dim=1)
    weight, bias = linear_discriminant(constant, labels, once(labels), 4)
    assert torch.allclose(weight[:, 6:], torch.zeros(4, 2), atol=1e-6)
    assert bias.isfinite().all()
