"""What generator and student minimise in FedFTG (Zhang et al., CVPR 2022, arXiv 2203.09249).

Losses of one client are weighed **image by image** with ``w_i(y) = n[i, y] / sum_j n[j, y]``, the client's share of the
images that have the wanted label. **Deviation:** the released code reduces the cross-entropy to its mean first and
multiplies by the mean weight, so that clients no longer speak about the classes that they know.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy of one client's opinion of generated images with the labels that were wanted.

    Args:
        logits: of the client's model, shape ``(B, C)``.
        labels: shape ``(B,)``.
        weights: how much the client knows of each image's label, in ``[0, 1]``, shape ``(B,)``.

    Returns:
        Scalar, at least 0: the mean over the images of weight times cross-entropy.

    >>> even = torch.zeros(2, 2)
    >>> weighted_cross_entropy(even, torch.tensor([0, 1]), torch.tensor([1.0, 0.0]))  # ln 2 / 2
    tensor(0.3466)
    """
    return (weights * F.cross_entropy(logits, labels, reduction="none")).mean()


def weighted_disagreement(student_logits: Tensor, teacher_logits: Tensor, weights: Tensor) -> Tensor:
    """How far the student's logits lie from one client's; the generator seeks images where this is large.

    The gradient reaches the images through the student alone, as in the released code.

    Args:
        student_logits: S, shape ``(B, C)``.
        teacher_logits: T of the client's model, shape ``(B, C)``.
        weights: how much the client knows of each image's label, in ``[0, 1]``, shape ``(B,)``.

    Returns:
        Scalar, at least 0: the mean over the images of weight times the classes' mean ``|S - T|``.

    >>> weighted_disagreement(torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2), torch.tensor([0.5]))
    tensor(1.)
    """
    return (weights * (student_logits - teacher_logits.detach()).abs().mean(1)).mean()


def similarity(noise: Tensor, images: Tensor) -> Tensor:
    """How alike images are that come from different noise; the generator seeks images where this is small.

    ``exp(mean over a, b of -||z_a - z_b||^2 |x_a - x_b|_1)`` over all pairs of the batch, an image with itself among
    them. Both distances are means over the coordinates, as in the released code, so that no size of image makes the
    exponent vanish.

    Args:
        noise: z, what the images were made from, shape ``(B, D)``.
        images: x, shape ``(B, ...)``.

    Returns:
        Scalar in ``(0, 1]``; 1 when all images are equal.

    >>> similarity(torch.tensor([[0.0], [2.0]]), torch.tensor([[0.0], [0.5]]))  # exp(-(4 * 0.5 * 2) / 4)
    tensor(0.3679)
    """
    pixels = images.flatten(1)
    apart = (pixels[:, None] - pixels).abs().mean(-1)
    return torch.exp(-((noise[:, None] - noise).square().mean(-1) * apart).mean())


def ensemble_cross_entropy(student_logits: Tensor, teacher_probabilities: Tensor) -> Tensor:
    """Cross-entropy of the student with the clients' weighted probabilities, ``-log softmax(S) . P``.

    Averaged over images *and classes*, as in the released code, whose learning rate of 0.1 belongs to that size.

    Args:
        student_logits: S, shape ``(B, C)``.
        teacher_probabilities: ``P = sum_i w_i(y) softmax(T_i)``, shape ``(B, C)``.

    Returns:
        Scalar, at least 0.

    >>> ensemble_cross_entropy(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))  # ln 2 / 2
    tensor(0.3466)
    """
    return -(student_logits.log_softmax(-1) * teacher_probabilities).mean()
