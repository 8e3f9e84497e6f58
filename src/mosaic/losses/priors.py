"""Class priors and class weights, from labels and their counts."""

import torch
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
    return (counts / counts.sum(-1, keepdim=True)).float().clamp(min=torch.finfo(torch.float32).tiny)


def balanced_class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """Return class weights under which all classes that occur count the same; their mean over examples is one.

    Args:
        labels: shape ``(N,)``.
        num_classes: C.

    Returns:
        Weights of shape ``(C,)``; 0 for a class without examples.

    >>> balanced_class_weights(torch.tensor([0, 0, 0, 2]), 3)
    tensor([0.6667, 0.0000, 2.0000])
    """
    counts = torch.bincount(labels, minlength=num_classes).float()
    present = counts > 0
    return torch.where(present, len(labels) / (present.sum() * counts.clamp(min=1)), 0.0)
