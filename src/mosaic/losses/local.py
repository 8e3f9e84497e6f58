"""What a client minimises on its own images."""

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
