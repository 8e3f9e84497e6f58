"""Losses of image synthesis for distillation from an ensemble (DENSE, Co-Boosting)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mosaic.losses.distillation import divergences


def boundary_support(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, only_disagreeing: bool = True
) -> Tensor:
    """Divergence of the student from its teacher where the two predict different classes (Zhang et al. 2022).

    ``mean over b of m_b t^2 KL(softmax(T_b / t) || softmax(S_b / t))``, with ``m_b`` 1 where the most likely classes
    differ and 0 where they agree (DENSE, arXiv 2112.12371). A generator *subtracts* it, so that its images lie between
    the decision boundaries of the two. Both logits pass gradients to the image; ``m_b`` has none.

    Args:
        student_logits: S, shape ``(B, C)``.
        teacher_logits: T, shape ``(B, C)``.
        temperature: t, positive.
        only_disagreeing: whether ``m_b`` is as above; else it is 1 everywhere (Co-Boosting, arXiv 2402.15070).

    Returns:
        Scalar, at least 0 nats; the mean is over all B images.

    >>> import torch
    >>> teacher = torch.tensor([[0.75, 0.25], [0.75, 0.25]]).log()
    >>> student = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()
    >>> boundary_support(student, teacher)  # half of 0.5 ln 3: the second image's classes agree
    tensor(0.2747)
    """
    student = (student_logits / temperature).log_softmax(-1)
    teacher = (teacher_logits / temperature).log_softmax(-1)
    found = temperature**2 * divergences(teacher, student)
    if only_disagreeing:
        found = found * (student_logits.argmax(-1) != teacher_logits.argmax(-1))
    return found.mean()


def hard_label_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with more weight on images of low label probability (Co-Boosting, arXiv 2402.15070).

    ``mean over b of (1 - p_b) CE_b``, where ``p_b`` is the probability of the image's label; the factor has no
    gradient. Logits have shape ``(B, C)``, labels ``(B,)``.

    >>> import torch
    >>> hard_label_cross_entropy(torch.zeros(1, 2), torch.tensor([0]))  # 0.5 ln 2
    tensor(0.3466)
    """
    losses = F.cross_entropy(logits, labels, reduction="none")
    return ((1 - (-losses.detach()).exp()) * losses).mean()


def output_diversification(logits: Tensor, temperature: float, random: torch.Generator) -> Tensor:
    """Sum of probabilities with weights drawn uniformly from ``[-1, 1]``, ``sum over b, c of u_bc softmax(z_b / t)_c``.

    Its gradient moves each image towards some classes and away from others: output diversified sampling (Tashiro et al.
    2020, arXiv 2003.06878), which Co-Boosting uses (arXiv 2402.15070; t is 4 in its released code).

    Args:
        logits: z, shape ``(B, C)``.
        temperature: t, above 0.
        random: draws the weights on the CPU, so that they are the same on every device.

    >>> import torch
    >>> alike = torch.zeros(3, 2)
    >>> weights = torch.rand(3, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    >>> bool(output_diversification(alike, 4.0, torch.Generator().manual_seed(0)) == (weights / 2).sum())
    True
    """
    weights = 2 * torch.rand(logits.shape, generator=random) - 1
    weights = weights.to(logits.device, non_blocking=logits.device.type == "cuda")  # elsewhere a copy has to be awaited
    return (weights * (logits / temperature).softmax(-1)).sum()


def signed_step(values: Tensor, gradient: Tensor, size: float) -> Tensor:
    """Move every value by ``size`` along the sign of its gradient, and clamp it to ``[0, 1]``.

    Co-Boosting (arXiv 2402.15070) increases the student's divergence from its teacher by steps on pixels, and decreases
    the cross-entropy of an ensemble by steps of negative size on its weights. The result has no gradient.

    >>> import torch
    >>> signed_step(torch.tensor([0.5, 0.5, 1.0]), torch.tensor([3.0, -0.1, 2.0]), 0.25)
    tensor([0.7500, 0.2500, 1.0000])
    """
    return (values.detach() + size * gradient.sign()).clamp(0, 1)
