"""Losses of the generator in DFRD (Luo et al., NeurIPS 2023, arXiv 2309.13546), from the paper's description alone."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mosaic.losses.distillation import divergences


def fidelity(ensemble_logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the ensemble's logits ``(B, C)`` for generated images with their labels ``(B,)``."""
    return F.cross_entropy(ensemble_logits, labels)


def transferability(student_logits: Tensor, ensemble_logits: Tensor, labels: Tensor) -> Tensor:
    """Negative divergence of student and ensemble on images that only the ensemble classifies correctly.

    ``-mean over the images of e KL(softmax(T) || softmax(S))`` with ``e = 1`` where ``argmax T = y`` and
    ``argmax S != y``, 0 elsewhere: it rewards images between the two decision boundaries, but not images that the
    ensemble misclassifies too.

    Args:
        student_logits: S, shape ``(B, C)``.
        ensemble_logits: T, shape ``(B, C)``.
        labels: y, shape ``(B,)``.

    Returns:
        Scalar, at most 0; 0 if there is no such image.
    """
    student, ensemble = student_logits.log_softmax(-1), ensemble_logits.log_softmax(-1)
    learnable = (ensemble.argmax(-1) == labels) & (student.argmax(-1) != labels)
    return -torch.where(learnable, divergences(ensemble, student), 0.0).mean()
