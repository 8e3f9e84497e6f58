import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mosaic.losses.local import prior_adjusted_cross_entropy
from mosaic.priors import label_prior


def batch(random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    return 3 * torch.randn(16, 4, generator=random), torch.randint(4, (16,), generator=random)


def test_a_uniform_prior_changes_nothing(random: torch.Generator) -> None:
    logits, labels = batch(random)
    adjusted = prior_adjusted_cross_entropy(logits, labels, torch.full((4,), 0.25))
    assert adjusted.item() == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-6)


def test_it_is_the_bayes_rule_with_the_prior(random: torch.Generator) -> None:
    logits, labels = batch(random)
    prior = np.array([0.7, 0.1, 0.15, 0.05])
    joint = prior * np.exp(logits.double().numpy())
    likelihood = joint[np.arange(16), labels] / joint.sum(1)
    adjusted = prior_adjusted_cross_entropy(logits.double(), labels, torch.from_numpy(prior))
    assert adjusted.item() == pytest.approx(-np.log(likelihood).mean())


def test_images_that_say_nothing_cost_the_entropy_of_the_labels() -> None:
    prior = torch.tensor([0.75, 0.25])
    labels = torch.tensor([0, 0, 0, 1])
    loss = prior_adjusted_cross_entropy(torch.zeros(4, 2), labels, prior)
    assert loss.item() == pytest.approx(-0.75 * np.log(0.75) - 0.25 * np.log(0.25))


def test_absent_classes_give_finite_gradients_that_hardly_move_them(random: torch.Generator) -> None:
    logits = torch.zeros(8, 3, requires_grad=True)
    labels = torch.tensor([0, 0, 0, 0, 2, 2, 2, 2])
    prior_adjusted_cross_entropy(logits, labels, label_prior(torch.tensor([400, 0, 400]))).backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[:, 1].abs().max() < 1e-4 < logits.grad[:, 0].abs().min()
