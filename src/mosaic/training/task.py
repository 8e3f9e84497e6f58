"""What every piece of training has in common: a record of its losses and a say in its Trainer."""

from collections.abc import Iterable, Mapping
from typing import Any, Self

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from mosaic.training.blocks import SizedBatches
from mosaic.transfer import lies_on

_CPU = torch.device("cpu")


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
        if kwargs or len(args) != 1 or not isinstance(args[0], torch.device):
            return super().to(*args, **kwargs)
        return self if self._lies_on(args[0]) else super().to(*args, non_blocking=args[0].type != "cpu")

    def cpu(self) -> Self:
        """Move every tensor to the CPU, unless all are there already."""
        return self if self._lies_on(_CPU) else super().cpu()

    def _lies_on(self, device: torch.device) -> bool:
        """Whether every tensor is there; ``self.device`` alone is not enough: a Trainer sets it before it moves us."""
        return self.device == device and lies_on(self, device)

    def on_fit_end(self) -> None:
        """Let the optimisers forget: a Trainer would first fetch from the device what they remember."""
        for optimizer in self.trainer.optimizers:
            optimizer.state.clear()

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
