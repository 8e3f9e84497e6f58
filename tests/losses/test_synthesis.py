import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch import Tensor

from mosaic.losses.synthesis import boundary_support, hard_label_cross_entropy, output_diversification, signed_step

TEACHER = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.4, 0.6]]).log()
STUDENT = torch.tensor([[0.5, 0.5], [0.1, 0.9], [0.3, 0.7]]).log()
"""Of three images only the second divides the two; a tie goes to the first class."""


def logits(random: torch.Generator, *shape: int) -> Tensor:
    return 3 * torch.randn(*shape, generator=random, dtype=torch.float64)


def test_only_the_image_that_divides_the_two_counts() -> None:
    divided = 0.8 * math.log(0.8 / 0.1) + 0.2 * math.log(0.2 / 0.9)
    assert boundary_support(STUDENT, TEACHER).item() == pytest.approx(divided / 3)


def test_images_on_which_the_two_agree_have_no_gradient() -> None:
    student, teacher = (scores.clone().requires_grad_(True) for scores in (STUDENT, TEACHER))
    boundary_support(student, teacher).backward()
    for scores in (student, teacher):
        assert scores.grad.abs().sum(1).gt(0).tolist() == [False, True, False]


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_without_a_mask_it_is_the_softened_divergence_of_student_from_teacher(
    random: torch.Generator, temperature: float
) -> None:
    student, teacher = logits(random, 9, 4), logits(random, 9, 4)
    p, q = (scipy.special.softmax(scores.numpy() / temperature, axis=1) for scores in (teacher, student))
    expected = temperature**2 * np.mean([scipy.stats.entropy(p[b], q[b]) for b in range(9)])
    assert boundary_support(student, teacher, temperature, only_disagreeing=False).item() == pytest.approx(expected)


def test_it_grows_as_the_student_moves_away_from_its_teacher() -> None:
    near, far = torch.tensor([[-0.1, 0.0]]), torch.tensor([[-2.0, 0.0]])
    teacher = torch.tensor([[1.0, 0.0]])
    assert 0 < boundary_support(near, teacher) < boundary_support(far, teacher)


def test_it_vanishes_when_the_two_are_one() -> None:
    assert boundary_support(TEACHER, TEACHER, only_disagreeing=False).item() == 0


def test_an_image_counts_by_how_little_it_is_recognised() -> None:
    scores = torch.tensor([[0.9, 0.1], [0.3, 0.7]]).log()
    expected = (0.1 * -math.log(0.9) + 0.7 * -math.log(0.3)) / 2
    assert hard_label_cross_entropy(scores, torch.tensor([0, 0])).item() == pytest.approx(expected)


def test_how_hard_an_image_is_has_no_gradient(random: torch.Generator) -> None:
    """Cross-entropy's own gradient, softmax minus label, is scaled by 1 - p and by nothing else."""
    scores, labels = logits(random, 5, 3).requires_grad_(True), torch.tensor([0, 1, 2, 0, 1])
    hard_label_cross_entropy(scores, labels).backward()
    p = scipy.special.softmax(scores.detach().numpy(), axis=1)
    own = p[np.arange(5), labels.numpy()]
    expected = (1 - own)[:, None] * (p - np.eye(3)[labels.numpy()]) / 5
    np.testing.assert_allclose(scores.grad.numpy(), expected)


def test_diversification_weighs_softened_probabilities(random: torch.Generator) -> None:
    scores, weights = logits(random, 5, 3), 2 * torch.rand(5, 3, generator=torch.Generator().manual_seed(1)) - 1
    expected = (weights.numpy() * scipy.special.softmax(scores.numpy() / 4, axis=1)).sum()
    found = output_diversification(scores, 4.0, torch.Generator().manual_seed(1))
    assert found.item() == pytest.approx(expected)


@pytest.mark.parametrize("size", [8 / 255, -0.01])
def test_a_signed_step_is_bounded_and_stays_in_range(random: torch.Generator, size: float) -> None:
    values, gradient = torch.rand(1000, generator=random), torch.randn(1000, generator=random)
    values[:2], gradient[:2] = torch.tensor([0.0, 1.0]), torch.tensor([-size, size])
    moved = signed_step(values, gradient, size)
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert (moved - values).abs().max() <= abs(size) * (1 + 1e-5)
    inside = (values > abs(size)) & (values < 1 - abs(size))
    torch.testing.assert_close((moved - values)[inside], (size * gradient.sign())[inside], rtol=0, atol=1e-6)


def test_nothing_moves_where_the_gradient_is_zero() -> None:
    assert signed_step(torch.tensor([0.3]), torch.tensor([0.0]), 0.5).item() == pytest.approx(0.3)
