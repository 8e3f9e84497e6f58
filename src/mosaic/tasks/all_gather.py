"""Let the ranks of a data-parallel run compare a string before they train."""

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from mosaic.batches import world_size
from mosaic.training.task import Task


class AllGatherTask(Task):
    """Gather one string of every rank, in a step that changes nothing: Lightning starts the ranks with the first phase.

    Args:
        own: the string of this rank.

    Attributes:
        found: the strings of all ranks, once the phase has begun.
    """

    def __init__(self, own: str) -> None:
        super().__init__()
        self._own = own
        self.found: list[str] = []
        self.nothing = nn.Parameter(torch.zeros(1))

    def on_fit_start(self) -> None:
        """Exchange the strings."""
        self.found = [self._own] * world_size()
        if world_size() > 1:
            torch.distributed.all_gather_object(self.found, self._own)

    def training_step(self, batch: object, batch_idx: int) -> Tensor:
        """Return a loss whose gradient is zero."""
        return 0 * self.nothing.sum()

    def configure_optimizers(self) -> Optimizer:
        """Return the optimiser that Lightning requires."""
        return SGD(self.parameters(), lr=0.0)
