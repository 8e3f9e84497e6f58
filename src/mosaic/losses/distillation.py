"""Losses of distillation from a teacher to a student (METHOD section 6)."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def knowledge_distillation(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Softened Kullback-Leibler divergence (Hinton et al. 2015, arXiv 1503.02531).

    ``t^2 KL(softmax(T / t) || softmax(S / t))``, averaged over the batch.

    Args:
        student_logits: shape ``(B, C)``.
        teacher_logits: shape ``(B, C)``.
        temperature: t, positive; the factor t^2 keeps the scale of the gradient.

    Returns:
        Scalar, at least 0 nats; 0 if student and teacher agree.
    """
    return _soft_target_losses(student_logits, teacher_logits, temperature).mean()


def pseudo_label_cross_entropy(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Cross-entropy with the teacher's most likely class; both arguments have shape ``(B, C)``."""
    return _pseudo_label_losses(student_logits, teacher_logits).mean()


def jensen_shannon(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """Mean Jensen-Shannon divergence between two sets of class logits (Lin 1991).

    Both arguments are finite unnormalised scores of shape ``(B, C)``.

    Returns:
        Scalar in ``[0, ln 2]`` nats; 0 if the two distributions agree.
    """
    return _jensen_shannon_losses(p_logits, q_logits).mean()


def mosaic_distillation(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float,
    alpha: float,
    beta: float,
    weights: Tensor | None = None,
) -> Tensor:
    """Distillation loss of Mosaic (arXiv 2505.19699; released settings alpha 0.8, beta 1, t 1).

    ``alpha t^2 KL + (1 - alpha) CE(S, argmax T) + beta JSD``; a term with weight 0 is left out, not multiplied by 0.

    Args:
        student_logits: S, shape ``(B, C)``.
        teacher_logits: T, shape ``(B, C)``.
        temperature: t of the first term.
        alpha: share of the soft targets, in ``[0, 1]``.
        beta: weight of the Jensen-Shannon divergence.
        weights: non-negative factors on the images' losses before the mean, shape ``(B,)``; ``None`` means 1 for all.

    Returns:
        Scalar, at least 0.
    """

    def mean(losses: Tensor) -> Tensor:
        return (losses if weights is None else weights * losses).mean()

    total = student_logits.new_zeros(())
    if alpha > 0:
        total = total + alpha * mean(_soft_target_losses(student_logits, teacher_logits, temperature))
    if alpha < 1:
        total = total + (1 - alpha) * mean(_pseudo_label_losses(student_logits, teacher_logits))
    if beta > 0:
        total = total + beta * mean(_jensen_shannon_losses(student_logits, teacher_logits))
    return total


def hard_example_weights(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Weights that favour images on which the student does not yet agree with its teacher.

    ``1 - p_y``, where ``p_y`` is the student's probability of the teacher's most likely class (Co-Boosting, Dai et al.
    2024, arXiv 2402.15070). **Deviation:** they are scaled to mean one over the batch, so that steps do not become
    smaller as the student learns. Both arguments have shape ``(B, C)``.

    Returns:
        Shape ``(B,)`` in ``[0, B]``, without gradient; all 1 if no image is hard.

    >>> student = torch.tensor([[0.5, 0.5], [0.75, 0.25]]).log()
    >>> hard_example_weights(student, teacher_logits=torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    tensor([1.3333, 0.6667])
    """
    agreement = student_logits.detach().softmax(-1).gather(-1, teacher_logits.argmax(-1, keepdim=True))
    hardness = 1 - agreement.squeeze(-1)
    mean = hardness.mean()
    return torch.where(mean > 0, hardness / mean, 1.0)


def _soft_target_losses(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    student = (student_logits / temperature).log_softmax(-1)
    teacher = (teacher_logits / temperature).log_softmax(-1)
    return temperature**2 * _divergence(teacher, student)


def _pseudo_label_losses(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    return F.cross_entropy(student_logits, teacher_logits.argmax(-1), reduction="none")


def _jensen_shannon_losses(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    log_p, log_q = p_logits.log_softmax(-1), q_logits.log_softmax(-1)
    log_m = log_p.logaddexp(log_q) - math.log(2)  # mix probabilities, not logits
    return 0.5 * (_divergence(log_p, log_m) + _divergence(log_q, log_m))


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) of every image, from log-probabilities of shape ``(B, C)`` to ``(B,)``."""
    return F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)
