import math

import numpy as np
import pytest
import scipy.special
import torch
from torch.nn import functional as F

from mosaic.losses.fedftg import ensemble_cross_entropy, similarity, weighted_cross_entropy, weighted_disagreement
from mosaic.server.experts import class_shares

SURE_OF_FIRST = torch.tensor([[math.log(9.0), 0.0], [math.log(9.0), 0.0]])
"""Probabilities 0.9 and 0.1, whatever the image."""


def test_two_clients_speak_about_the_classes_that_they_hold() -> None:
    """Client 0 holds 30 and 10 images of classes 0 and 1, client 1 holds 10 and 30: shares of 3/4 and 1/4."""
    weights = class_shares(torch.tensor([[30, 10], [10, 30]])).T
    assert weights.tolist() == [[0.75, 0.25], [0.25, 0.75]]
    labels = torch.tensor([0, 1])
    first, second = (weighted_cross_entropy(SURE_OF_FIRST, labels, own[labels]) for own in weights)
    easy, hard = -math.log(0.9), -math.log(0.1)
    assert float(first) == pytest.approx((0.75 * easy + 0.25 * hard) / 2)
    assert float(second) == pytest.approx((0.25 * easy + 0.75 * hard) / 2)


def test_weighing_after_the_reduction_would_make_both_clients_alike() -> None:
    """The released code's trap: every client's mean weight over a balanced batch is the same."""
    weights = class_shares(torch.tensor([[30, 10], [10, 30]])).T
    labels = torch.tensor([0, 1])
    reduced = [float(F.cross_entropy(SURE_OF_FIRST, labels) * own[labels].mean()) for own in weights]
    ours = [float(weighted_cross_entropy(SURE_OF_FIRST, labels, own[labels])) for own in weights]
    assert reduced[0] == pytest.approx(reduced[1])
    assert ours[1] - ours[0] == pytest.approx((0.75 - 0.25) * math.log(9) / 2)


def test_disagreement_is_a_weighted_mean_over_images_of_a_mean_over_classes() -> None:
    student = torch.tensor([[1.0, -1.0, 0.0], [5.0, 5.0, 5.0]])
    teacher = torch.tensor([[0.0, 1.0, 0.0], [5.0, 2.0, 5.0]])
    assert float(weighted_disagreement(student, teacher, torch.tensor([1.0, 0.0]))) == pytest.approx((1 + 2) / 3 / 2)
    assert float(weighted_disagreement(student, teacher, torch.tensor([0.5, 1.0]))) == pytest.approx((0.5 + 1) / 2)


def test_disagreement_sends_its_gradient_through_the_student_alone() -> None:
    student, teacher = torch.zeros(1, 2, requires_grad=True), torch.ones(1, 2, requires_grad=True)
    weighted_disagreement(student, teacher, torch.ones(1)).backward()
    assert student.grad is not None
    assert student.grad.tolist() == [[-0.5, -0.5]]
    assert teacher.grad is None


def test_similarity_is_that_of_a_double_loop(random: torch.Generator) -> None:
    noise, images = torch.randn(5, 3, generator=random), torch.rand(5, 2, 4, 4, generator=random)
    z, x = noise.double().numpy(), images.double().numpy().reshape(5, -1)
    total = 0.0
    for a in range(5):
        for b in range(5):
            total -= np.mean((z[a] - z[b]) ** 2) * np.mean(np.abs(x[a] - x[b]))
    assert float(similarity(noise, images)) == pytest.approx(np.exp(total / 25), rel=1e-5)


def test_similarity_falls_as_images_part(random: torch.Generator) -> None:
    noise, images = torch.randn(8, 3, generator=random), torch.rand(8, 1, 4, 4, generator=random)
    collapsed = images[:1].expand_as(images)
    values = [float(similarity(noise, collapsed + share * (images - collapsed))) for share in (0.0, 0.3, 1.0)]
    assert values[0] == 1
    assert values[0] > values[1] > values[2] > 0


def test_similarity_does_not_know_the_order_of_a_batch(random: torch.Generator) -> None:
    noise, images = torch.randn(6, 3, generator=random), torch.rand(6, 1, 4, 4, generator=random)
    order = torch.randperm(6, generator=random)
    assert float(similarity(noise[order], images[order])) == pytest.approx(float(similarity(noise, images)))


def test_similarity_gives_equal_images_a_finite_gradient() -> None:
    images = torch.full((4, 1, 2, 2), 0.5, requires_grad=True)
    similarity(torch.randn(4, 3), images).backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()


def test_similarity_has_the_gradient_of_its_definition_and_holds_no_pixels_of_pairs(random: torch.Generator) -> None:
    noise = torch.randn(6, 3, generator=random, dtype=torch.double)
    images = torch.rand(6, 1, 4, 4, generator=random, dtype=torch.double).requires_grad_()
    held: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: held.append(tensor.numel()) or tensor, lambda it: it):
        similarity(noise, images).backward()
    assert max(held) == images.numel()
    assert images.grad is not None
    x, z, gradient = images.detach().flatten(1).numpy(), noise.numpy(), np.zeros((6, 16))
    for a in range(6):
        for b in range(6):
            gradient[a] -= 2 * np.mean((z[a] - z[b]) ** 2) * np.sign(x[a] - x[b]) / 16 / 36
    expected = gradient * similarity(noise, images.detach()).item()
    np.testing.assert_allclose(images.grad.flatten(1).numpy(), expected, rtol=1e-12)


def test_the_students_loss_is_numpys(random: torch.Generator) -> None:
    logits, opinions = torch.randn(6, 4, generator=random), torch.randn(2, 6, 4, generator=random)
    weights = torch.rand(2, 6, 1, generator=random)
    ours = ensemble_cross_entropy(logits, (weights * opinions.softmax(-1)).sum(0))
    mixture = (weights.numpy() * scipy.special.softmax(opinions.numpy(), axis=-1)).sum(0)
    reference = -(scipy.special.log_softmax(logits.numpy(), axis=-1) * mixture).sum() / (6 * 4)
    assert float(ours) == pytest.approx(float(reference), rel=1e-5)


def test_the_students_loss_is_least_where_it_follows_the_ensemble(random: torch.Generator) -> None:
    wanted = torch.randn(6, 4, generator=random).softmax(-1)
    at_wanted = ensemble_cross_entropy(wanted.log(), wanted)
    moved = wanted.log() + 0.1 * torch.randn(6, 4, generator=random)
    assert float(at_wanted) < float(ensemble_cross_entropy(moved, wanted))
    assert float(at_wanted) == pytest.approx(float(-(wanted * wanted.log()).sum(-1).mean() / 4))
