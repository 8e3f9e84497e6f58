"""Losses of generator and student in FedFTG (Zhang et al., CVPR 2022, arXiv 2203.09249).

The losses of one client are weighted **image by image** with ``w_i(y) = n[i, y] / sum_j n[j, y]``, the client's share
of the images with label y. **Deviation:** the released code multiplies the mean cross-entropy by the mean weight, so
that the weights no longer depend on the label of the image.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Weighted cross-entropy of one client's logits for generated images with their labels.

    Args:
        logits: logits of the client's model, shape ``(B, C)``.
        labels: shape ``(B,)``.
        weights: the client's weight for each image's label, in ``[0, 1]``, shape ``(B,)``.

    Returns:
        Scalar, at least 0: the mean over the images of weight times cross-entropy.

    >>> even = torch.zeros(2, 2)
    >>> weighted_cross_entropy(even, torch.tensor([0, 1]), torch.tensor([1.0, 0.0]))  # ln 2 / 2
    tensor(0.3466)
    """
    return (weights * F.cross_entropy(logits, labels, reduction="none")).mean()


def weighted_disagreement(student_logits: Tensor, teacher_logits: Tensor, weights: Tensor) -> Tensor:
    """Weighted distance of the student's logits from one client's; the generator maximises it.

    The gradient reaches the images through the student only, as in the released code.

    Args:
        student_logits: S, shape ``(B, C)``.
        teacher_logits: T of the client's model, shape ``(B, C)``.
        weights: the client's weight for each image's label, in ``[0, 1]``, shape ``(B,)``.

    Returns:
        Scalar, at least 0: the mean over the images of weight times the classes' mean ``|S - T|``.

    >>> weighted_disagreement(torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2), torch.tensor([0.5]))
    tensor(1.)
    """
    return (weights * (student_logits - teacher_logits.detach()).abs().mean(1)).mean()


def similarity(noise: Tensor, images: Tensor) -> Tensor:
    """Similarity of images from different noise; the generator minimises it.

    ``exp(mean over a, b of -||z_a - z_b||^2 |x_a - x_b|_1)`` over all pairs of the batch, including an image with
    itself. Both distances are means over the coordinates, as in the released code, so that the exponent does not depend
    on the size of the images.

    Args:
        noise: z, the noise of the images, shape ``(B, D)``.
        images: x, shape ``(B, ...)``.

    Returns:
        Scalar in ``(0, 1]``; 1 if all images are equal.

    >>> similarity(torch.tensor([[0.0], [2.0]]), torch.tensor([[0.0], [0.5]]))  # exp(-(4 * 0.5 * 2) / 4)
    tensor(0.3679)
    """
    pixels = images.flatten(1)
    apart = torch.cdist(pixels, pixels, p=1) / pixels.shape[1]
    return torch.exp(-((noise[:, None] - noise).square().mean(-1) * apart).mean())


def ensemble_cross_entropy(student_logits: Tensor, teacher_probabilities: Tensor) -> Tensor:
    """Cross-entropy of the student with the clients' weighted probabilities, ``-log softmax(S) . P``.

    It is averaged over images *and classes*, as in the released code, whose learning rate of 0.1 fits this scale.

    Args:
        student_logits: S, shape ``(B, C)``.
        teacher_probabilities: ``P = sum_i w_i(y) softmax(T_i)``, shape ``(B, C)``.

    Returns:
        Scalar, at least 0.

    >>> ensemble_cross_entropy(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))  # ln 2 / 2
    tensor(0.3466)
    """
    return -(student_logits.log_softmax(-1) * teacher_probabilities).mean()
