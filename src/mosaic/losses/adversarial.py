"""Losses of generator and discriminator (docs/method.md, section 2)."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F


def discriminator_bce(real: Tensor, fake: Tensor) -> Tensor:
    """Binary cross-entropy of a discriminator (Goodfellow et al. 2014, arXiv 1406.2661).

    Both arguments are logits of shape ``(B,)``. The scalar is at least 0, and ``2 ln 2`` for logits of 0.
    """
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_bce(fake: Tensor) -> Tensor:
    """Non-saturating loss of a generator, ``BCE(D(G(z)), 1)``, of logits ``fake`` of shape ``(B,)``."""
    return F.softplus(-fake).mean()


def discriminator_hinge(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of a discriminator (Lim and Ye 2017, arXiv 1705.02894).

    Both arguments are logits of shape ``(B,)``. The scalar is at least 0, and 0 if every real logit exceeds 1 and every
    fake one is below -1.
    """
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def generator_hinge(fake: Tensor) -> Tensor:
    """Hinge loss of a generator: minus the mean logit; ``fake`` has shape ``(B,)``."""
    return -fake.mean()


def mean_entropy(logits: Tensor) -> Tensor:
    """Mean entropy of the predictions of logits ``(B, C)``: a scalar in ``[0, ln C]`` nats, small for clear classes."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1).mean()


def diversity(logits: Tensor, target: Tensor) -> Tensor:
    """Divergence of the batch's mean prediction from the target class shares, ``KL(mean_b p_b || target)``.

    The mean is computed in log space, so that a class without predictions gives no NaN.

    Args:
        logits: shape ``(B, C)``.
        target: target share of every class, shape ``(C,)``, without zeros.

    Returns:
        Scalar, at least 0; 0 if the shares equal the target.
    """
    log_mean = logits.log_softmax(-1).logsumexp(0) - torch.log(torch.tensor(float(len(logits))))
    return (log_mean.exp() * (log_mean - target.log())).sum()


def inversion(layers: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Distance of a batch's statistics from the running statistics of a trained network's BatchNorm layers.

    ``sum over layers of ||batch mean - running mean||_2 + ||batch var - running var||_2`` (Yin et al. 2020,
    arXiv 1912.08795). It is always added to a loss, never subtracted.

    Args:
        layers: the layer's input ``(B, channels, ...)`` with gradient, running mean and running variance
            ``(channels,)``.

    Returns:
        Scalar, at least 0; 0 if there is no layer.
    """
    total = torch.zeros(())
    for inputs, mean, variance in layers:
        rows = inputs.movedim(1, -1).flatten(0, -2)
        batch_mean = rows.sum(0) / len(rows)
        # To first order, moving the mean does not change the variance. mse_loss takes one pass, backward too: on CPUs
        # it is at least three times as fast as torch.var_mean. The gradient of a sum is a view, that of a mean a copy.
        squares = F.mse_loss(rows, batch_mean.detach().expand_as(rows), reduction="none")
        batch_variance = squares.sum(0) / len(rows)
        total = total + (batch_mean - mean).norm() + (batch_variance - variance).norm()
    return total
