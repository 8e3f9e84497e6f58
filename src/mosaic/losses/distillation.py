"""Losses of distillation from a teacher to a student (docs/method.md, section 6)."""

import math

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
    student = (student_logits / temperature).log_softmax(-1)
    teacher = (teacher_logits / temperature).log_softmax(-1)
    return temperature**2 * divergences(teacher, student).mean()


def pseudo_label_cross_entropy(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Cross-entropy with the teacher's most likely class; both arguments have shape ``(B, C)``."""
    return F.cross_entropy(student_logits, teacher_logits.argmax(-1))


def jensen_shannon(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """Mean Jensen-Shannon divergence between two sets of class logits (Lin 1991).

    Both arguments are finite unnormalised scores of shape ``(B, C)``.

    Returns:
        Scalar in ``[0, ln 2]`` nats; 0 if the two distributions agree.
    """
    log_p, log_q = p_logits.log_softmax(-1), q_logits.log_softmax(-1)
    log_m = log_p.logaddexp(log_q) - math.log(2)  # mix probabilities, not logits
    return 0.5 * (divergences(log_p, log_m).mean() + divergences(log_q, log_m).mean())


def mosaic_distillation(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, alpha: float, beta: float
) -> Tensor:
    """Distillation loss of Mosaic (arXiv 2505.19699; released settings alpha 0.8, beta 1, t 1).

    ``alpha t^2 KL + (1 - alpha) CE(S, argmax T) + beta JSD``; a term with weight 0 is left out, not multiplied by 0.

    Args:
        student_logits: S, shape ``(B, C)``.
        teacher_logits: T, shape ``(B, C)``.
        temperature: t of the first term.
        alpha: share of the soft targets, in ``[0, 1]``.
        beta: weight of the Jensen-Shannon divergence.

    Returns:
        Scalar, at least 0.
    """
    total = student_logits.new_zeros(())
    if alpha > 0:
        total = total + alpha * knowledge_distillation(student_logits, teacher_logits, temperature)
    if alpha < 1:
        total = total + (1 - alpha) * pseudo_label_cross_entropy(student_logits, teacher_logits)
    if beta > 0:
        total = total + beta * jensen_shannon(student_logits, teacher_logits)
    return total


def divergences(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence KL(p || q) of every image, shape ``(B,)``, in nats.

    Args:
        log_p: log-probabilities, shape ``(B, C)``.
        log_q: likewise.
    """
    return F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)
