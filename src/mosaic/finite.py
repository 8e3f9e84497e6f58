"""Tell whether tensors hold finite numbers only, and none that training cannot have made."""

from collections.abc import Iterable

import torch
from torch import Tensor

MOST_GROWTH = 1e5
"""How many times as large as the largest of the sent numbers, or as 1, those after training may be."""


def are_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all tensors are free of infinity and NaN; allocates no mask of a tensor's size.

    >>> are_finite([torch.ones(2), torch.tensor([0.0, float("nan")])])
    False
    """
    return bool(extremes(tensors).isfinite().all())


def are_plausible(tensors: Iterable[Tensor], sent: Iterable[Tensor] = ()) -> bool:
    """Whether all numbers are finite, and none is too large to come from training that began with those sent.

    Servers refuse others, which would outweigh all uploads, and clients take training that ends in them for diverged.

    >>> are_plausible([torch.tensor([2e5])]), are_plausible([torch.tensor([2e5])], [torch.tensor([3.0])])
    (False, True)
    """
    found = largest(tensors)
    return found <= MOST_GROWTH or found <= most_after(sent)  # neither, if it is no number


def most_after(sent: Iterable[Tensor]) -> float:
    """Return the largest number that training which began with these can end in."""
    return MOST_GROWTH * max(1.0, largest(sent))


def largest(tensors: Iterable[Tensor]) -> float:
    """Return the largest size of a number, 0 where there is none; NaN or infinity if there is such a number."""
    found = extremes(tensors)
    return float(found.abs().max()) if len(found) else 0.0


def extremes(tensors: Iterable[Tensor]) -> Tensor:
    """Return minimum and maximum of each floating-point tensor, shape ``(2 n,)``; NaN for a tensor with NaN."""
    found = [torch.stack(tensor.aminmax()) for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    return torch.cat(found) if found else torch.zeros(0)
