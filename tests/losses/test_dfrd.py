import math

import pytest
import torch
from torch.nn import functional as F

from mosaic.losses.dfrd import fidelity, transferability

LABELS = torch.tensor([0, 0, 0, 0])
RIGHT, WRONG = [math.log(3.0), 0.0], [0.0, math.log(3.0)]
"""Probabilities 3/4 and 1/4, or the other way round."""
STUDENT = torch.tensor([WRONG, RIGHT, WRONG, RIGHT])
ENSEMBLE = torch.tensor([RIGHT, RIGHT, WRONG, WRONG])


def test_only_what_the_student_gets_wrong_and_the_ensemble_right_is_rewarded() -> None:
    """KL((3/4, 1/4) || (1/4, 3/4)) = 1/2 ln 3 on the first of four images, nothing on the others."""
    assert float(transferability(STUDENT, ENSEMBLE, LABELS)) == pytest.approx(-0.5 * math.log(3) / 4)


def test_the_divergence_is_seen_from_the_ensemble() -> None:
    """KL((0.9, 0.1) || (1/4, 3/4)), which the other way round is another number."""
    ensemble = torch.tensor([[0.9, 0.1]]).log()
    expected = 0.9 * math.log(0.9 / 0.25) + 0.1 * math.log(0.1 / 0.75)
    assert float(transferability(STUDENT[:1], ensemble, LABELS[:1])) == pytest.approx(-expected)


@pytest.mark.parametrize("image", [1, 2, 3])
def test_nothing_is_gained_from_the_other_three_kinds(image: int) -> None:
    student = STUDENT[image : image + 1].clone().requires_grad_(True)
    loss = transferability(student, ENSEMBLE[image : image + 1], LABELS[:1])
    loss.backward()
    assert loss.item() == 0
    assert student.grad is not None
    assert not student.grad.any()


def test_the_gradient_of_the_reward_parts_student_and_ensemble() -> None:
    student = STUDENT[:1].clone().requires_grad_(True)
    before = transferability(student, ENSEMBLE[:1], LABELS[:1])
    before.backward()
    assert student.grad is not None
    after = transferability(student.detach() - 0.1 * student.grad, ENSEMBLE[:1], LABELS[:1])
    assert after.item() < before.item() < 0


def test_images_that_are_both_judged_alike_give_no_nan() -> None:
    images = torch.zeros(2, 3, requires_grad=True)
    transferability(images, 2 * images, torch.tensor([0, 1])).backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()


def test_fidelity_is_the_ensembles_cross_entropy() -> None:
    expected = -(math.log(0.75) + math.log(0.25)) / 2
    assert float(fidelity(torch.tensor([RIGHT, WRONG]), LABELS[:2])) == pytest.approx(expected)
    assert float(fidelity(100 * F.one_hot(LABELS, 2).float(), LABELS)) == pytest.approx(0)
