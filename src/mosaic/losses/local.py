"""What a client minimises on its own images."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F


def prior_adjusted_cross_entropy(logits: Tensor, labels: Tensor, prior: Tensor) -> Tensor:
    """Cross-entropy of logits to which the log of the client's label prior is added.

    The network then learns what images say beyond how often the client sees each class (logit adjustment, Menon et al.
    2021, arXiv 2007.07314).

    Args:
        logits: shape ``(B, C)``.
        labels: shape ``(B,)``.
        prior: the client's smoothed label prior, shape ``(C,)``, without zeros.

    Returns:
        Scalar, at least 0; equal to plain cross-entropy when the prior is uniform.
    """
    return F.cross_entropy(logits + prior.log(), labels)


def proximal_term(parameters: Iterable[Tensor], received: Iterable[Tensor]) -> Tensor:
    """Half the squared distance of a model from the one that the client has received (FedProx, Li et al. 2020, Eq. 2).

    ``1/2 ||theta_i - theta||^2`` (arXiv 1812.06127). The gradient, ``theta_i - theta``, goes to the first argument
    alone.

    Args:
        parameters: theta_i, tensors of any shape.
        received: theta, tensors of the same shapes in the same order.

    Returns:
        Scalar, at least 0; 0 when nothing has moved.

    >>> proximal_term([torch.tensor([3.0, 4.0]), torch.tensor(1.0)], [torch.zeros(2), torch.tensor(3.0)])
    tensor(14.5000)
    """
    moved = [own - start.detach() for own, start in zip(parameters, received, strict=True)]
    return 0.5 * torch.stack([difference.square().sum() for difference in moved]).sum()


def restriction_scales(class_counts: Tensor, alpha: float) -> Tensor:
    """Weigh every class by how often the client sees it (FedRS, Li and Zhan, KDD 2021, as its released code has it).

    ``s_c = (1 - alpha) p_c / max p + alpha``, where p are the client's label shares.

    Args:
        class_counts: images per class, shape ``(C,)``, at least one of them above zero.
        alpha: what a class without images keeps, in ``[0, 1]``.

    Returns:
        Scales in ``[alpha, 1]``, shape ``(C,)``: 1 for the most frequent class, alpha for absent ones.

    >>> restriction_scales(torch.tensor([6, 3, 0]), alpha=0.5)
    tensor([1.0000, 0.7500, 0.5000])
    """
    shares_of_most = class_counts / class_counts.max()
    return (1 - alpha) * shares_of_most + alpha


def restricted_cross_entropy(logits: Tensor, labels: Tensor, scales: Tensor) -> Tensor:
    """Cross-entropy of a softmax that is restricted in its rare classes (FedRS, Li and Zhan, KDD 2021).

    The smaller a class's scale, the less the images of other classes push it away. **Deviation:** the original scales
    ``w_c . h``, of a head without bias. Heads here have one, and the whole logit is scaled: a bias left alone would be
    pushed down in full.

    Args:
        logits: shape ``(B, C)``.
        labels: shape ``(B,)``.
        scales: shape ``(C,)``, from :func:`restriction_scales`.

    Returns:
        Scalar, at least 0; equal to plain cross-entropy, to the last bit, when every scale is 1.
    """
    return F.cross_entropy(scales * logits, labels)


def logit_suppression(logits: Tensor, labels: Tensor, prior: Tensor) -> Tensor:
    """Size of the logits that images give to classes which are not theirs (FedVLS, Guo et al. 2025, arXiv 2401.02329).

    ``sum over c of pi(c) log mean exp(z_c - log pi(c) - log C)``, the mean being over the batch's images that are not
    labelled c. A class that every image is labelled with has no such image and counts 0.

    Args:
        logits: z, shape ``(B, C)``.
        labels: shape ``(B,)``.
        prior: pi, the client's smoothed label prior, shape ``(C,)``, without zeros.

    Returns:
        Scalar of either sign; it grows by a when every logit grows by a, as long as no class counts 0.

    >>> logit_suppression(torch.zeros(2, 2), torch.tensor([0, 1]), torch.tensor([0.75, 0.25]))  # entropy - ln C
    tensor(-0.1308)
    """
    classes = logits.shape[-1]
    own = F.one_hot(labels, classes).bool()
    alone = own.all(0)
    calibrated = logits - prior.log() - math.log(classes)
    total = calibrated.masked_fill(own & ~alone, -torch.inf).logsumexp(0)  # over nothing but -inf the gradient is NaN
    others = (~own).sum(0).clamp(min=1)
    return (prior * (total - others.log())).masked_fill(alone, 0).sum()


def vacant_class_distillation(logits: Tensor, global_logits: Tensor, absent: Tensor) -> Tensor:
    """What a client has forgotten about the classes that it lacks (FedVLS, Guo et al. 2025, arXiv 2401.02329).

    ``KL(global || local)``, averaged over the batch, where both softmaxes are taken over the absent classes only. The
    gradient goes to the local logits alone.

    Args:
        logits: of the model in training, shape ``(B, C)``.
        global_logits: of the model that the client has received, shape ``(B, C)``.
        absent: which classes the client has no image of: bool, shape ``(C,)``, or their numbers; beside the logits.

    Returns:
        Scalar, at least 0 nats; 0 when the two agree on the absent classes, or fewer than two are absent.

    >>> local, received = torch.tensor([[9.0, 0.0, 0.0]]), torch.tensor([[0.0, 5.0, 5.0]])
    >>> vacant_class_distillation(local, received, torch.tensor([False, True, True]))
    tensor(0.)
    """
    local = logits[:, absent].log_softmax(-1)
    wanted = global_logits.detach()[:, absent].log_softmax(-1)
    return F.kl_div(local, wanted, log_target=True, reduction="batchmean")
