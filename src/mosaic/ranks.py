"""Processes that train together as ranks of torch.distributed; a single process counts as a world of one."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value")
_ENDS = "mosaic/rank 0 ends"
_LONGEST_END = timedelta(minutes=1)  # of rank 0, which may write a snapshot
_c10d: Any = getattr(torch.distributed, "distributed_c10d", None)  # its type stubs lack the store


def world_size() -> int:
    """Return the number of ranks that train together."""
    initialized = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if initialized else 1


def has_lost_a_rank(error: BaseException | None) -> bool:
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


@contextmanager
def ending_after_rank_0(alike: type[Exception]) -> Iterator[None]:
    """Let ranks that fail alike end after rank 0, with the exit code 0: rank 0 speaks for all.

    Launchers end all ranks as soon as one has failed, and rank 0 may still write a snapshot. A rank that fails alone
    ends with its own error after a minute; one with an error of another class does so at once.

    Args:
        alike: class of the errors that all ranks raise.
    """
    try:
        yield
    except Exception as error:
        if world_size() == 1:
            raise
        store = _c10d._get_default_store()
        if torch.distributed.get_rank() == 0:
            with suppress(RuntimeError):
                store.set(_ENDS, "")
        elif isinstance(error, alike) and not has_lost_a_rank(error.__cause__) and _rank_0_ends(store):
            raise SystemExit(0) from error
        raise


def _rank_0_ends(store: Any) -> bool:
    """Wait until rank 0 says that it ends, or is gone; return whether it did."""
    try:
        store.wait([_ENDS], _LONGEST_END)
    except torch.distributed.DistStoreError:
        return False
    except RuntimeError:  # nobody is there who could say it
        return True
    return True
