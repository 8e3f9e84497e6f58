"""What every piece of training has in common: a record of its losses and a say in its Trainer."""

from collections.abc import Iterable, Mapping
from typing import Any, Self

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from mosaic.tasks.blocks import SizedBatches


class Task(LightningModule):
    """A LightningModule that keeps its curves in memory, for the phase that runs it to read.

    Phases run by the thousand and without a logger; keeping detached scalars costs less than ``self.log`` and waits
    for no device.
    """

    def __init__(self) -> None:
        super().__init__()
        self._curves: dict[str, list[Tensor]] = {}

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move every tensor, unless all are there already; a Trainer asks for it in every phase."""
        return self if args == (self.device,) and not kwargs else super().to(*args, **kwargs)

    def cpu(self) -> Self:
        """Move every tensor to the CPU, unless all are there already."""
        return self if self.device.type == "cpu" else super().cpu()

    def record(self, name: str, value: Tensor) -> None:
        """Keep one scalar of the current step."""
        self._curves.setdefault(name, []).append(value.detach())

    def recorded(self) -> dict[str, Tensor]:
        """Return every recorded curve as a float tensor of shape ``(steps,)`` on the CPU."""
        return {name: torch.stack(values).float().cpu() for name, values in self._curves.items()}

    def amend_trainer(self, template: Mapping[str, Any], data_parallel: bool) -> dict[str, Any]:
        """Return the Trainer settings that this task needs.

        Args:
            template: those that the user asked for.
            data_parallel: whether they come to DistributedDataParallel.
        """
        return dict(template)

    def networks(self) -> Iterable[nn.Module]:
        """Return what is worth compiling: everything that is called as a whole."""
        return self.children()

    def feed(self, batches: SizedBatches) -> SizedBatches:
        """Return what the Trainer takes its batches from."""
        return batches
