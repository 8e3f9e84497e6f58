"""Tell whether tensors hold finite numbers only."""

from collections.abc import Iterable

import torch
from torch import Tensor


def are_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all tensors are free of infinity and NaN; allocates no mask of a tensor's size.

    >>> are_finite([torch.ones(2), torch.tensor([0.0, float("nan")])])
    False
    """
    return bool(extremes(tensors).isfinite().all())


def extremes(tensors: Iterable[Tensor]) -> Tensor:
    """Return minimum and maximum of each floating-point tensor, shape ``(2 n,)``; NaN for a tensor with NaN."""
    found = [torch.stack(tensor.aminmax()) for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    return torch.cat(found) if found else torch.zeros(0)
