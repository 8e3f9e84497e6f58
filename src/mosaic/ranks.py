"""Processes that train together, by their ranks in a group of torch.distributed; alone, one process is all."""

from typing import TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value")


def world_size() -> int:
    """Return the number of ranks that train together."""
    initialized = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if initialized else 1


def has_lost_a_rank(error: BaseException) -> bool:
    """Whether an exception says that another rank has ended while this one waited for it."""
    told = isinstance(error, RuntimeError) and any(
        name in str(error) for name in ("gloo/", "NCCL", "Connection closed")
    )
    return world_size() > 1 and (told or isinstance(error, getattr(torch.distributed, "DistError", ())))


def own_share(batch: Tensor) -> Tensor:
    """Return the part of a global batch that belongs to this rank: every ``world_size``-th example."""
    if world_size() == 1:
        return batch
    return batch[torch.distributed.get_rank() :: world_size()]


def said_by_rank_0(value: Value) -> Value:
    """Return what rank 0 says, where several ranks train together."""
    if world_size() == 1:
        return value
    carrier = [value]
    torch.distributed.broadcast_object_list(carrier, src=0)
    return carrier[0]
