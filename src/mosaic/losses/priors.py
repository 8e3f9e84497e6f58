"""Label priors."""

from torch import Tensor


def label_prior(class_counts: Tensor, epsilon: float = 0.01) -> Tensor:
    """Turn label counts ``(..., C)`` into a prior without zeros, ``pi(c) = (n[c] + epsilon) / (n + epsilon * C)``.

    Returns:
        Probabilities of shape ``(..., C)`` that sum to one over the last dimension.

    >>> import torch
    >>> label_prior(torch.tensor([3, 0, 1]), epsilon=1.0)
    tensor([0.5714, 0.1429, 0.2857])
    """
    if epsilon <= 0:
        raise ValueError(f"label_prior needs epsilon > 0, got {epsilon}: an absent class would have probability zero")
    counts = class_counts.double() + epsilon
    return (counts / counts.sum(-1, keepdim=True)).float()
