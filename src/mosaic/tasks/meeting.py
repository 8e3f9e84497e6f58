"""Let ranks that train together compare what they bring, before they do."""

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from mosaic.batches import world_size
from mosaic.training.task import Task


class MeetingTask(Task):
    """Takes a step that changes nothing; Lightning starts the other ranks for the first phase, and not before.

    Args:
        brought: what this rank brings.

    Attributes:
        found: what each rank has brought, once the phase has begun.
    """

    def __init__(self, brought: str) -> None:
        super().__init__()
        self._brought = brought
        self.found: list[str] = []
        self.nothing = nn.Parameter(torch.zeros(1))

    def on_fit_start(self) -> None:
        """Exchange what all have brought."""
        self.found = [self._brought] * world_size()
        if world_size() > 1:
            torch.distributed.all_gather_object(self.found, self._brought)

    def training_step(self, batch: object, batch_idx: int) -> Tensor:
        """Return a loss that does not change."""
        return 0 * self.nothing.sum()

    def configure_optimizers(self) -> Optimizer:
        """Return what Lightning asks for."""
        return SGD(self.parameters(), lr=0.0)
