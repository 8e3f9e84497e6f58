import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch.nn import functional as F

from mosaic.losses.local import (
    logit_suppression,
    prior_adjusted_cross_entropy,
    proximal_term,
    restricted_cross_entropy,
    restriction_scales,
    vacant_class_distillation,
)
from mosaic.losses.priors import label_prior
from tests.cases import for_each


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


def two_models(random: torch.Generator) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    shapes = [(4, 3), (4,), (2, 1, 3, 3)]
    own, received = ([torch.randn(shape, generator=random) for shape in shapes] for _ in range(2))
    return own, received


def test_the_proximal_term_is_half_a_squared_distance(random: torch.Generator) -> None:
    own, received = two_models(random)
    flat = [np.concatenate([tensor.numpy().ravel() for tensor in tensors]) for tensors in (own, received)]
    assert proximal_term(own, received).item() == pytest.approx(np.linalg.norm(flat[0] - flat[1]) ** 2 / 2)
    assert proximal_term(received, own).item() == pytest.approx(proximal_term(own, received).item())


def test_what_has_not_moved_is_at_no_distance(random: torch.Generator) -> None:
    own, _ = two_models(random)
    own[0].requires_grad_()
    value = proximal_term(own, [tensor.detach().clone() for tensor in own])
    value.backward()
    assert value.item() == 0
    assert not own[0].grad.any()  # a norm that is not squared would have no gradient here


def test_the_proximal_term_pulls_the_local_model_alone(random: torch.Generator) -> None:
    own, received = two_models(random)
    for tensor in (*own, *received):
        tensor.requires_grad_()
    proximal_term(own, received).backward()
    for mine, theirs in zip(own, received, strict=True):
        torch.testing.assert_close(mine.grad, (mine - theirs).detach())
        assert theirs.grad is None


def test_models_of_different_depth_have_no_distance(random: torch.Generator) -> None:
    own, received = two_models(random)
    with pytest.raises(ValueError, match="shorter"):
        proximal_term(own, received[:-1])


@for_each(
    ("counts", "alpha", "scales"),
    [
        ([6, 3, 0], 0.5, [1.0, 0.75, 0.5]),
        ([0, 8, 2, 0], 0.2, [0.2, 1.0, 0.4, 0.2]),
        ([6, 3, 0], 0.0, [1.0, 0.5, 0.0]),
        ([5, 5, 5], 0.3, [1.0, 1.0, 1.0]),
        ([0, 0, 7], 0.9, [0.9, 0.9, 1.0]),
    ],
)
def test_restriction_by_hand(counts: list[int], alpha: float, scales: list[float]) -> None:
    torch.testing.assert_close(restriction_scales(torch.tensor(counts), alpha), torch.tensor(scales))


def test_restriction_by_counts_that_include_replayed_images_leaves_the_loss_in_single_precision() -> None:
    scales = restriction_scales(torch.tensor([6.0, 3.0, 0.0], dtype=torch.float64), 0.5)
    assert restricted_cross_entropy(torch.zeros(2, 3), torch.tensor([0, 1]), scales).dtype == torch.float32
    torch.testing.assert_close(scales, restriction_scales(torch.tensor([6, 3, 0]), 0.5))


def test_restriction_follows_shares_and_not_sizes() -> None:
    few, many = (restriction_scales(torch.tensor(counts), 0.3) for counts in ([6, 3, 0], [6000, 3000, 0]))
    torch.testing.assert_close(few, many)


def test_alpha_of_one_restricts_nothing_bit_for_bit(random: torch.Generator) -> None:
    logits, labels = batch(random)
    scales = restriction_scales(torch.tensor([7, 3, 0, 1]), 1.0)
    assert torch.equal(scales, torch.ones(4))
    restricted, plain = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    values = restricted_cross_entropy(restricted, labels, scales), F.cross_entropy(plain, labels)
    for value in values:
        value.backward()
    assert torch.equal(*values)
    assert torch.equal(restricted.grad, plain.grad)


def test_restricted_cross_entropy_by_hand() -> None:
    logits, scales = torch.tensor([[2.0, 4.0, 6.0]]), torch.tensor([1.0, 0.75, 0.5])  # scaled: 2, 3, 3
    value = restricted_cross_entropy(logits, torch.tensor([0]), scales)
    assert value.item() == pytest.approx(np.log(1 + 2 * np.e))


def test_scaling_logits_is_scaling_class_weights_of_a_head_without_bias(random: torch.Generator) -> None:
    features = torch.randn(16, 5, generator=random, dtype=torch.double)
    weights = torch.randn(4, 5, generator=random, dtype=torch.double)
    labels, counts = batch(random)[1], np.array([9, 0, 3, 1])
    scales = 0.6 * (counts / counts.sum()) / (counts / counts.sum()).max() + 0.4
    scores = features.numpy() @ (scales[:, None] * weights.numpy()).T
    expected = -scipy.special.log_softmax(scores, axis=1)[np.arange(16), labels].mean()
    ours = restricted_cross_entropy(features @ weights.T, labels, restriction_scales(torch.from_numpy(counts), 0.4))
    assert ours.item() == pytest.approx(expected)


def test_images_of_other_classes_push_an_absent_class_less() -> None:
    gradients = []
    for alpha in (1.0, 0.25):
        logits = torch.zeros(4, 3, requires_grad=True)
        scales = restriction_scales(torch.tensor([5, 5, 0]), alpha)
        restricted_cross_entropy(logits, torch.tensor([0, 0, 1, 1]), scales).backward()
        gradients.append(logits.grad)
    torch.testing.assert_close(gradients[1][:, 2], 0.25 * gradients[0][:, 2])
    torch.testing.assert_close(gradients[1][:, :2], gradients[0][:, :2])


PRIOR = torch.tensor([0.7, 0.1, 0.15, 0.05], dtype=torch.float64)


def test_suppression_is_the_loop_over_classes(random: torch.Generator) -> None:
    logits, labels = batch(random)
    expected = 0.0
    for c, share in enumerate(PRIOR.tolist()):
        scores = [float(row[c]) - np.log(share) - np.log(4) for row, y in zip(logits, labels, strict=True) if y != c]
        expected += share * (scipy.special.logsumexp(scores) - np.log(len(scores)))
    assert logit_suppression(logits.double(), labels, PRIOR).item() == pytest.approx(expected)


def test_suppression_by_hand() -> None:
    logits = torch.tensor([[9.0, 2.0], [1.0, 9.0], [3.0, 9.0]])  # the nines are the images' own classes
    expected = 0.5 * np.log((np.exp(1) + np.exp(3)) / 2) + 0.5 * 2
    assert logit_suppression(logits, torch.tensor([0, 1, 1]), torch.tensor([0.5, 0.5])).item() == pytest.approx(
        expected
    )


def test_suppression_follows_a_shift_of_every_logit(random: torch.Generator) -> None:
    logits, labels = batch(random)
    before, after = (logit_suppression(logits.double() + shift, labels, PRIOR) for shift in (0, 5))
    assert (after - before).item() == pytest.approx(5)


def test_suppression_presses_each_class_by_its_share_and_never_an_images_own(random: torch.Generator) -> None:
    logits, labels = batch(random)
    logits = logits.double().requires_grad_()
    logit_suppression(logits, labels, PRIOR).backward()
    assert (logits.grad >= 0).all()
    assert not logits.grad[torch.arange(16), labels].any()
    torch.testing.assert_close(logits.grad.sum(0), PRIOR)


def test_a_class_that_every_image_is_labelled_with_is_not_suppressed(random: torch.Generator) -> None:
    logits, labels = batch(random)[0].double().requires_grad_(), torch.full((16,), 2)
    with torch.autograd.set_detect_anomaly(True):  # which refuses a NaN on the way, too
        value = logit_suppression(logits, labels, PRIOR)
        value.backward()
    others = [0, 1, 3]
    calibrated = logits.detach()[:, others].numpy() - np.log(PRIOR[others].numpy()) - np.log(4)
    log_means = scipy.special.logsumexp(calibrated, axis=0) - np.log(16)
    assert value.item() == pytest.approx((PRIOR[others].numpy() * log_means).sum())
    assert logits.grad.isfinite().all()
    assert not logits.grad[:, 2].any()


def test_there_is_nothing_to_suppress_where_only_one_class_exists() -> None:
    logits = torch.ones(3, 1, requires_grad=True)
    value = logit_suppression(logits, torch.zeros(3, dtype=torch.long), torch.ones(1))
    value.backward()
    assert value.item() == 0
    assert not logits.grad.any()


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_suppression_of_extreme_logits_and_rare_classes_is_finite(size: float) -> None:
    logits = torch.full((4, 3), size, requires_grad=True)
    value = logit_suppression(logits, torch.tensor([0, 0, 2, 2]), label_prior(torch.tensor([10_000, 0, 10_000])))
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()


ABSENT = torch.tensor([False, True, True, True])


def test_vacant_distillation_is_a_divergence_between_renormalised_probabilities(random: torch.Generator) -> None:
    local, received = batch(random)[0].double(), batch(random)[0].double()
    q, p = (scipy.special.softmax(scores.numpy(), axis=1)[:, 1:] for scores in (local, received))
    expected = scipy.stats.entropy(p, q, axis=1).mean()  # which divides by the sums
    assert vacant_class_distillation(local, received, ABSENT).item() == pytest.approx(expected)


def test_vacant_distillation_by_hand() -> None:
    local = torch.log(torch.tensor([[0.6, 0.2, 0.2]]))
    received = torch.log(torch.tensor([[0.2, 0.6, 0.2]]))
    expected = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    absent = torch.tensor([False, True, True])
    assert vacant_class_distillation(local, received, absent).item() == pytest.approx(expected)


def test_what_the_client_learns_of_its_own_classes_costs_nothing(random: torch.Generator) -> None:
    received, _ = batch(random)
    local = received + torch.tensor([8.0, -3.0, -3.0, -3.0])  # a new class 0, the others pushed back together
    assert vacant_class_distillation(local, received, ABSENT).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("absent", [[], [2]])
def test_fewer_than_two_absent_classes_leave_nothing_to_distil(random: torch.Generator, absent: list[int]) -> None:
    local, received = batch(random)[0].requires_grad_(), batch(random)[0]
    mask = torch.zeros(4, dtype=torch.bool)
    mask[absent] = True
    value = vacant_class_distillation(local, received, mask)
    value.backward()
    assert value.item() == 0
    assert not local.grad.any()


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_vacant_distillation_teaches_absent_classes_to_the_local_model_alone(size: float) -> None:
    local = torch.tensor([[3.0, size, -size, 0.0]], requires_grad=True)
    received = torch.tensor([[3.0, -size, size, 0.0]], requires_grad=True)
    vacant_class_distillation(local, received, ABSENT).backward()
    assert received.grad is None
    assert local.grad.isfinite().all()
    assert local.grad[0, 0] == 0
    assert local.grad[0, 2] < 0 < local.grad[0, 1]
