"""The base class of all tasks: it records curves and has a say in its Trainer's settings."""

from collections.abc import Iterable, Mapping
from typing import Any, Self

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from mosaic.ranks import world_size
from mosaic.training.blocks import SizedBatches
from mosaic.transfer import lies_on, needs_no_wait

_CPU = torch.device("cpu")


class Task(LightningModule):
    """A LightningModule that keeps its curves in memory, where the phase runner reads them.

    A run has thousands of phases without a logger; a list of detached scalars is cheaper than ``self.log`` and waits
    for no device.
    """

    def __init__(self) -> None:
        super().__init__()
        self._curves: dict[str, list[Tensor]] = {}
        self._layout = torch.contiguous_format

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move every tensor, unless all are on the device already; a Trainer asks for it in every phase."""
        if kwargs or len(args) != 1 or not isinstance(args[0], torch.device):
            return super().to(*args, **kwargs)
        return self if self._lies_on(args[0]) else super().to(*args, non_blocking=needs_no_wait(args[0]))

    def cpu(self) -> Self:
        """Move every tensor to the CPU, unless all are there already, and lay them out as they were before."""
        if self._lies_on(_CPU):
            return self
        self.lay_out(torch.contiguous_format)
        return super().cpu()

    def lay_out(self, layout: torch.memory_format) -> None:
        """Lay the weights of convolutions out in memory, unless they lie so already."""
        if layout != self._layout:
            self.to(memory_format=layout)
            self._layout = layout

    def _lies_on(self, device: torch.device) -> bool:
        """Return whether every tensor is there; a Trainer sets ``self.device`` before it moves them."""
        return self.device == device and lies_on(self, device)

    def on_train_end(self) -> None:
        """Give every rank the tensors of rank 0, while they are on the device.

        DistributedDataParallel copies buffers (BatchNorm statistics, moving averages) at the *start* of a forward pass,
        so they differ between ranks after the last step. All tensors of a type travel as one.
        """
        if world_size() == 1:
            return
        tensors = list(self.state_dict().values())
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            own = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.reshape(-1) for tensor in own])
            torch.distributed.broadcast(flat, src=0)
            for tensor, part in zip(own, flat.split([tensor.numel() for tensor in own]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def on_fit_end(self) -> None:
        """Clear the optimisers' states, which a Trainer would otherwise copy to the CPU."""
        for optimizer in self.trainer.optimizers:
            optimizer.state.clear()

    def record(self, name: str, value: Tensor) -> None:
        """Record a scalar of the current step."""
        self._curves.setdefault(name, []).append(value.detach())

    def recorded(self) -> dict[str, Tensor]:
        """Return every curve as a float tensor of shape ``(steps,)`` on the CPU."""
        return {name: torch.stack(values).float().cpu() for name, values in self._curves.items()}

    def amend_trainer(self, template: Mapping[str, Any], data_parallel: bool) -> dict[str, Any]:
        """Return the Trainer settings that this task needs.

        Args:
            template: the user's settings.
            data_parallel: whether their strategy is DistributedDataParallel.
        """
        return dict(template)

    def networks(self) -> Iterable[nn.Module]:
        """Return the modules that are worth compiling: those that are called as a whole."""
        return self.children()

    def captured_networks(self) -> Iterable[nn.Module]:
        """Return modules, no two of one architecture, whose passes may become CUDA graphs: a batch in every step."""
        return ()

    def feed(self, batches: SizedBatches) -> SizedBatches:
        """Return what the Trainer draws its batches from."""
        return batches
