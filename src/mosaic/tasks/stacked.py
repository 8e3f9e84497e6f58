"""The base class of tasks that train the networks of several clients as one stack."""

from collections.abc import Iterable
from typing import Any, Self

from torch import nn

from mosaic.training.manual import ManualTask


class StackedTask(ManualTask):
    """A task whose networks ``torch.func`` calls; stacked kernels have five dimensions."""

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move every tensor; no memory format concerns them."""
        return self if "memory_format" in kwargs else super().to(*args, **kwargs)

    def networks(self) -> Iterable[nn.Module]:
        """Return nothing to compile: ``torch.func`` calls the stack's networks by its own way."""
        return ()
