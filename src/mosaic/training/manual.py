"""Base classes of tasks under manual optimisation, where a task calls its optimisers itself."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from mosaic.training.blocks import BLOCK, Blocks, SizedBatches
from mosaic.training.task import Task
from mosaic.training.tuning import skips_precision


class ManualTask(Task):
    """A task under manual optimisation, which may take many optimiser steps in one training step.

    Attributes:
        takes_blocks: whether a training step can take several batches.
        in_blocks: whether it does. Callbacks, a profiler or data-parallel ranks need one training step per batch. The
            numbers are the same, bit for bit.
    """

    takes_blocks: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = self.in_blocks = self._plain_steps = False
        self._clip: dict[str, Any] = {}

    def amend_trainer(self, template: Mapping[str, Any], data_parallel: bool) -> dict[str, Any]:
        """Return the settings without those that manual optimisation with two optimisers forbids.

        Each backward pass reaches half of the parameters, which DistributedDataParallel must be told. Lightning refuses
        to clip, so the task does it.
        """
        settings = dict(template)
        if data_parallel:
            strategy, unused = settings.get("strategy"), {"find_unused_parameters": True}
            if isinstance(strategy, Mapping):
                settings["strategy"] = {**strategy, "init_args": {**(strategy.get("init_args") or {}), **unused}}
            else:
                settings["strategy"] = "ddp_find_unused_parameters_true"
        self._clip = {key: settings.pop(key, None) for key in ("gradient_clip_val", "gradient_clip_algorithm")}
        watched = settings.get("callbacks") or settings.get("profiler")
        self.in_blocks = self.takes_blocks and not (watched or data_parallel)
        return settings

    def on_train_start(self) -> None:
        """Find out whether steps can do without Lightning."""
        plain = self.in_blocks and not self._clip.get("gradient_clip_val")
        self._plain_steps = plain and skips_precision(self.trainer.precision_plugin)

    def feed(self, batches: SizedBatches) -> SizedBatches:
        """Group the batches where a training step takes several."""
        return Blocks(batches, BLOCK) if self.in_blocks else batches

    def batches_in(self, given: Any) -> Iterator[Any]:
        """Yield the batches of one training step, on the device."""
        if not self.in_blocks:
            yield given
        elif self.device.type == "cpu":
            yield from given
        else:
            yield from (self.transfer_batch_to_device(batch, self.device, 0) for batch in given)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip gradients if the user wants it; a gradient scaler has taken out its scale by now."""
        if self._clip.get("gradient_clip_val"):
            self.clip_gradients(optimizer, **self._clip)

    def descend(self, optimizer: Any, loss: Tensor) -> None:
        """Take one optimiser step down the gradient of a loss."""
        optimizer.zero_grad()
        if self._plain_steps:
            loss.backward()
            optimizer.optimizer.step()
        else:
            self.manual_backward(loss)
            optimizer.step()


class LossTask(ManualTask):
    """A task with one loss and one optimiser; Lightning optimises it wherever it does not take blocks."""

    takes_blocks = True

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = True

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """Return the loss of one batch on the device."""

    def after_step(self) -> None:
        """Do what follows every optimiser step."""

    def amend_trainer(self, template: Mapping[str, Any], data_parallel: bool) -> dict[str, Any]:
        """Return the settings unchanged, or those of manual optimisation with blocks."""
        amended = super().amend_trainer(template, data_parallel)
        self.automatic_optimization = not self.in_blocks
        if self.automatic_optimization:
            self._clip = {}
            return dict(template)
        return amended

    def training_step(self, given: Any, batch_idx: int) -> Tensor | None:
        """Return the loss of one batch to Lightning, or take the steps of a block."""
        if self.automatic_optimization:
            return self.loss(given)
        optimizer = self.optimizers()
        for batch in self.batches_in(given):
            self.descend(optimizer, self.loss(batch))
            self.after_step()
        return None

    def on_train_batch_end(self, *_: object) -> None:
        """Follow a step of Lightning's."""
        if self.automatic_optimization:
            self.after_step()


def set_requires_grad(parameters: Iterable[nn.Parameter], requires_grad: bool) -> None:
    """Set whether backward passes compute gradients of these parameters."""
    for parameter in parameters:
        parameter.requires_grad = requires_grad
