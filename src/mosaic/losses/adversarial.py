"""What generator and discriminator minimise (METHOD section 2)."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F


def discriminator_bce(real: Tensor, fake: Tensor) -> Tensor:
    """Binary cross-entropy of a discriminator (Goodfellow et al. 2014, arXiv 1406.2661).

    Args:
        real: logits of real images, shape ``(B,)``.
        fake: logits of generated images, shape ``(B,)``.

    Returns:
        Scalar, at least 0; ``2 ln 2`` when the discriminator cannot tell.
    """
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_bce(fake: Tensor) -> Tensor:
    """Non-saturating loss of a generator: ``BCE(D(G(z)), 1)``; ``fake`` are logits of shape ``(B,)``."""
    return F.softplus(-fake).mean()


def discriminator_hinge(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of a discriminator (Lim and Ye 2017, arXiv 1705.02894).

    Args:
        real: logits of real images, shape ``(B,)``.
        fake: logits of generated images, shape ``(B,)``.

    Returns:
        Scalar, at least 0; 0 once every real logit exceeds 1 and every fake one is below -1.
    """
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def generator_hinge(fake: Tensor) -> Tensor:
    """Hinge loss of a generator: minus the mean logit; ``fake`` has shape ``(B,)``."""
    return -fake.mean()


def mean_entropy(logits: Tensor) -> Tensor:
    """Mean entropy of the predictions, so that every image looks like *some* class.

    Args:
        logits: shape ``(B, C)``.

    Returns:
        Scalar in ``[0, ln C]`` nats.
    """
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1).mean()


def diversity(logits: Tensor, target: Tensor) -> Tensor:
    """Distance of the batch's mean prediction from the wanted class mixture, ``KL(mean_b p_b || target)``.

    The mean is taken in log space, so a class that nothing is predicted as gives no NaN.

    Args:
        logits: shape ``(B, C)``.
        target: wanted share of every class, shape ``(C,)``, without zeros.

    Returns:
        Scalar, at least 0; 0 when the mixture is as wanted.
    """
    log_mean = logits.log_softmax(-1).logsumexp(0) - torch.log(torch.tensor(float(len(logits))))
    return (log_mean.exp() * (log_mean - target.log())).sum()


def inversion(layers: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Distance of a batch's statistics from those that a trained network's BatchNorm layers remember.

    ``sum over layers of ||batch mean - running mean||_2 + ||batch var - running var||_2`` (Yin et al. 2020,
    arXiv 1912.08795). Always added to a loss, never subtracted.

    Args:
        layers: the layer's input ``(B, channels, ...)`` with gradient, running mean and running variance
            ``(channels,)``.

    Returns:
        Scalar, at least 0; 0 when there is no layer.
    """
    total = torch.zeros(())
    for inputs, mean, variance in layers:
        rows = inputs.movedim(1, -1).flatten(0, -2)
        batch_mean = rows.sum(0) / len(rows)
        # Moving the mean changes no variance to first order, and mse_loss squares in one pass, back too: on CPUs three
        # times as fast as torch.var_mean at least. A sum's gradient is a view; a mean's is written out.
        squares = F.mse_loss(rows, batch_mean.detach().expand_as(rows), reduction="none")
        batch_variance = squares.sum(0) / len(rows)
        total = total + (batch_mean - mean).norm() + (batch_variance - variance).norm()
    return total
