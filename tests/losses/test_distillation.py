import math

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.special
import scipy.stats
import torch
from torch import Tensor

from mosaic.losses.distillation import (
    jensen_shannon,
    knowledge_distillation,
    mosaic_distillation,
    pseudo_label_cross_entropy,
)


@pytest.fixture
def student(random: torch.Generator) -> Tensor:
    return 3 * torch.randn(9, 5, generator=random, dtype=torch.float64)


@pytest.fixture
def teacher(random: torch.Generator, student: Tensor) -> Tensor:
    return 3 * torch.randn(9, 5, generator=random, dtype=torch.float64)


@pytest.mark.parametrize("t", [0.5, 1.0, 4.0])
def test_distillation_is_a_softened_divergence_from_the_teacher(student: Tensor, teacher: Tensor, t: float) -> None:
    wanted, given = (scipy.special.softmax(scores.numpy() / t, axis=1) for scores in (teacher, student))
    expected = t**2 * scipy.stats.entropy(wanted, given, axis=1).mean()
    assert knowledge_distillation(student, teacher, t).item() == pytest.approx(expected)


def test_the_size_of_the_gradient_does_not_fade_with_temperature(student: Tensor, teacher: Tensor) -> None:
    def gradient(t: float) -> Tensor:
        scores = student.clone().requires_grad_()
        return torch.autograd.grad(knowledge_distillation(scores, teacher, t), scores)[0]

    difference = (student - teacher) - (student - teacher).mean(1, keepdim=True)
    torch.testing.assert_close(gradient(1e4), difference / student.numel(), rtol=1e-2, atol=1e-4)


def test_a_student_that_agrees_up_to_a_shift_has_nothing_to_learn(teacher: Tensor) -> None:
    shifted = teacher + torch.arange(9.0)[:, None]
    assert knowledge_distillation(shifted, teacher).item() == pytest.approx(0, abs=1e-9)
    assert jensen_shannon(shifted, teacher).item() == pytest.approx(0, abs=1e-9)


def test_pseudo_labels_are_the_teachers_first_choice() -> None:
    student, teacher = torch.log(torch.tensor([[0.2, 0.8], [0.5, 0.5]])), torch.tensor([[3.0, 2.0], [-5.0, -4.0]])
    expected = -(math.log(0.2) + math.log(0.5)) / 2
    assert pseudo_label_cross_entropy(student, teacher).item() == pytest.approx(expected)


def test_jensen_shannon_is_scipys(student: Tensor, teacher: Tensor) -> None:
    p, q = (scipy.special.softmax(scores.numpy(), axis=1) for scores in (student, teacher))
    expected = (scipy.spatial.distance.jensenshannon(p, q, axis=1) ** 2).mean()
    assert jensen_shannon(student, teacher).item() == pytest.approx(expected)


def test_jensen_shannon_is_symmetric(student: Tensor, teacher: Tensor) -> None:
    assert jensen_shannon(student, teacher).item() == pytest.approx(jensen_shannon(teacher, student).item())


@pytest.mark.parametrize("size", [10.0, 1e3, 1e6])
def test_jensen_shannon_is_bounded_by_ln_2_because_it_mixes_probabilities(size: float) -> None:
    one = torch.tensor([[size, -size], [-size, size]], requires_grad=True)
    value = jensen_shannon(one, -one.detach())
    value.backward()
    assert value.item() == pytest.approx(math.log(2), rel=1e-6)
    assert one.grad.isfinite().all()


@pytest.mark.parametrize(
    ("alpha", "beta", "expected"),
    [
        (1.0, 0.0, lambda s, t: knowledge_distillation(s, t, 2.0)),
        (0.0, 0.0, pseudo_label_cross_entropy),
        (
            0.8,
            1.0,
            lambda s, t: (
                0.8 * knowledge_distillation(s, t, 2.0) + 0.2 * pseudo_label_cross_entropy(s, t) + jensen_shannon(s, t)
            ),
        ),
    ],
    ids=["soft targets only", "pseudo-labels only", "released"],
)
def test_weights_join_the_terms(student: Tensor, teacher: Tensor, alpha: float, beta: float, expected) -> None:
    joined = mosaic_distillation(student, teacher, 2.0, alpha, beta)
    assert joined.item() == pytest.approx(expected(student, teacher).item())


def test_a_term_of_weight_zero_is_left_out_and_not_multiplied() -> None:
    student, teacher = torch.zeros(1, 2), torch.tensor([[torch.inf, 0.0]])
    assert mosaic_distillation(student, teacher, 1.0, alpha=0.0, beta=0.0).item() == pytest.approx(math.log(2))


def test_the_gradient_goes_to_the_student_alone(student: Tensor, teacher: Tensor) -> None:
    student.requires_grad_()
    mosaic_distillation(student, teacher, 1.0, alpha=0.5, beta=1.0).backward()
    assert student.grad.abs().sum() > 0
    torch.testing.assert_close(student.grad.sum(1), torch.zeros(9, dtype=torch.float64))


def losses_by_image(student: Tensor, teacher: Tensor) -> np.ndarray:
    """The released mixture at temperature 2, shape (9,)."""
    p, q = (scipy.special.softmax(scores.numpy(), axis=1) for scores in (teacher, student))
    softened = (scipy.special.softmax(scores.numpy() / 2, axis=1) for scores in (teacher, student))
    pseudo_labels = -np.log(q[np.arange(9), p.argmax(1)])
    divergence = scipy.spatial.distance.jensenshannon(q, p, axis=1) ** 2
    return 0.8 * 4 * scipy.stats.entropy(*softened, axis=1) + 0.2 * pseudo_labels + divergence


def test_the_released_mixture_is_the_mean_over_images(student: Tensor, teacher: Tensor) -> None:
    joined = mosaic_distillation(student, teacher, 2.0, 0.8, 1.0)
    assert joined.item() == pytest.approx(losses_by_image(student, teacher).mean())
