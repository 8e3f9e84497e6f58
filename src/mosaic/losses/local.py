"""Losses of clients on their own images."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F


def prior_adjusted_cross_entropy(logits: Tensor, labels: Tensor, prior: Tensor) -> Tensor:
    """Cross-entropy of logits to which the log of the client's label prior is added.

    The network then learns to classify independently of the client's class frequencies (logit adjustment, Menon et al.
    2021, arXiv 2007.07314).

    Args:
        logits: shape ``(B, C)``.
        labels: shape ``(B,)``.
        prior: the client's smoothed label prior, shape ``(C,)``, without zeros.

    Returns:
        Scalar, at least 0; equal to plain cross-entropy if the prior is uniform.
    """
    return F.cross_entropy(logits + prior.log(), labels)


def proximal_term(parameters: Iterable[Tensor], received: Iterable[Tensor]) -> Tensor:
    """Half the squared distance of a model from the received one, ``1/2 ||theta_i - theta||^2``.

    This is FedProx (Li et al. 2020, arXiv 1812.06127, Eq. 2). Only the first argument gets a gradient,
    ``theta_i - theta``.

    Args:
        parameters: theta_i, tensors of any shape.
        received: theta, tensors of the same shapes in the same order.

    >>> proximal_term([torch.tensor([3.0, 4.0]), torch.tensor(1.0)], [torch.zeros(2), torch.tensor(3.0)])
    tensor(14.5000)
    """
    moved = [own - start.detach() for own, start in zip(parameters, received, strict=True)]
    return 0.5 * torch.stack([difference.square().sum() for difference in moved]).sum()


def restriction_scales(class_counts: Tensor, alpha: float) -> Tensor:
    """Scale every class by how often the client sees it (released code of FedRS, Li and Zhan, KDD 2021).

    ``s_c = (1 - alpha) p_c / max p + alpha``, where p are the client's label shares.

    Args:
        class_counts: images per class, shape ``(C,)``, at least one of them above zero.
        alpha: scale of a class without images, in ``[0, 1]``.

    Returns:
        Scales in ``[alpha, 1]``, shape ``(C,)``: 1 for the most frequent class, alpha for absent ones.

    >>> restriction_scales(torch.tensor([6, 3, 0]), alpha=0.5)
    tensor([1.0000, 0.7500, 0.5000])
    """
    shares_of_most = (class_counts / class_counts.max()).float()  # counts that include replayed images are float64
    return (1 - alpha) * shares_of_most + alpha


def restricted_cross_entropy(logits: Tensor, labels: Tensor, scales: Tensor) -> Tensor:
    """Cross-entropy of logits scaled per class (restricted softmax of FedRS, Li and Zhan, KDD 2021).

    The smaller the scale of a class, the smaller its gradient from images of other classes. **Deviation:** the original
    scales ``w_c . h`` of a head without bias. Heads here have a bias, and the whole logit is scaled: an unscaled bias
    would still get the full gradient.

    Args:
        logits: shape ``(B, C)``.
        labels: shape ``(B,)``.
        scales: shape ``(C,)``, from :func:`restriction_scales`.

    Returns:
        Scalar, at least 0; equal to plain cross-entropy, to the last bit, if every scale is 1.
    """
    return F.cross_entropy(scales * logits, labels)


def logit_suppression(logits: Tensor, labels: Tensor, prior: Tensor) -> Tensor:
    """Size of the logits of classes other than the label (FedVLS, Guo et al. 2025, arXiv 2401.02329).

    ``sum over c of pi(c) log mean exp(z_c - log pi(c) - log C)``, with the mean over the images of the batch that are
    not labelled c. A class that is the label of every image contributes 0.

    Args:
        logits: z, shape ``(B, C)``.
        labels: shape ``(B,)``.
        prior: pi, the client's smoothed label prior, shape ``(C,)``, without zeros.

    Returns:
        Scalar of either sign; it grows by a if every logit grows by a, unless a class contributes 0.

    >>> logit_suppression(torch.zeros(2, 2), torch.tensor([0, 1]), torch.tensor([0.75, 0.25]))  # entropy - ln C
    tensor(-0.1308)
    """
    classes = logits.shape[-1]
    own = F.one_hot(labels, classes).bool()
    alone = own.all(0)
    calibrated = logits - prior.log() - math.log(classes)
    total = calibrated.masked_fill(own & ~alone, -torch.inf).logsumexp(0)  # the gradient over -inf only is NaN
    others = (~own).sum(0).clamp(min=1)
    return (prior * (total - others.log())).masked_fill(alone, 0).sum()


def vacant_class_distillation(logits: Tensor, global_logits: Tensor, absent: Tensor) -> Tensor:
    """Divergence from the received model on the classes that the client lacks (FedVLS, Guo et al., arXiv 2401.02329).

    ``KL(global || local)``, averaged over the batch, with both softmaxes over the absent classes only. Only the local
    logits get a gradient.

    Args:
        logits: logits of the model in training, shape ``(B, C)``.
        global_logits: logits of the received model, shape ``(B, C)``.
        absent: classes without images, as bool of shape ``(C,)`` or as indices, on the device of the logits.

    Returns:
        Scalar, at least 0 nats; 0 if the two agree on the absent classes, or fewer than two are absent.

    >>> local, received = torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([[0.0, 5.0, 5.0]])
    >>> vacant_class_distillation(local, received, torch.tensor([False, True, True]))
    tensor(0.)
    """
    local = logits[:, absent].log_softmax(-1)
    wanted = global_logits.detach()[:, absent].log_softmax(-1)
    return F.kl_div(local, wanted, log_target=True, reduction="batchmean")
