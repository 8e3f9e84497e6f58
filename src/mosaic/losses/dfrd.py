"""What the generator minimises in DFRD (Luo et al., NeurIPS 2023, arXiv 2309.13546).

No code of its authors was at hand: these are built from the paper's description.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def fidelity(ensemble_logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the ensemble's opinion of generated images with the labels that were wanted.

    Args:
        ensemble_logits: the clients' logits, weighted by what each knows of the label, shape ``(B, C)``.
        labels: shape ``(B,)``.

    Returns:
        Scalar, at least 0.
    """
    return F.cross_entropy(ensemble_logits, labels)


def transferability(student_logits: Tensor, ensemble_logits: Tensor, labels: Tensor) -> Tensor:
    """Minus what the student could still learn from images that the ensemble gets right and the student wrong.

    ``-mean over the images of e KL(softmax(T) || softmax(S))`` with ``e = 1`` where ``argmax T = y`` and
    ``argmax S != y``, 0 elsewhere: the generator seeks the region between the two decision boundaries, and is not
    rewarded for images on which nobody can be right.

    Args:
        student_logits: S, shape ``(B, C)``.
        ensemble_logits: T, shape ``(B, C)``.
        labels: y, shape ``(B,)``.

    Returns:
        Scalar, at most 0; 0 where there is nothing to learn.
    """
    student, ensemble = student_logits.log_softmax(-1), ensemble_logits.log_softmax(-1)
    divergence = F.kl_div(student, ensemble, log_target=True, reduction="none").sum(-1)
    learnable = (ensemble.argmax(-1) == labels) & (student.argmax(-1) != labels)
    return -torch.where(learnable, divergence, 0.0).mean()
