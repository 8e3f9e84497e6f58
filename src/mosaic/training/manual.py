"""What tasks share that step their optimisers by themselves."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from mosaic.training.blocks import BLOCK, Blocks, SizedBatches
from mosaic.training.task import Task
from mosaic.training.tuning import steps_need_no_plugin


class ManualTask(Task):
    """A task under manual optimisation, which may take many optimiser steps in one training step.

    Attributes:
        takes_blocks: whether a training step can be given several batches.
        in_blocks: whether it is. Not where callbacks or a profiler look at every step, nor where the ranks of a
            data-parallel phase meet at every training step. The numbers are the same, bit for bit.
    """

    takes_blocks: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = self.in_blocks = self._unaided = False
        self._clip: dict[str, Any] = {}

    def amend_trainer(self, template: Mapping[str, Any], data_parallel: bool) -> dict[str, Any]:
        """Allow for what manual optimisation with two optimisers forbids.

        DistributedDataParallel sees each backward pass use half of the parameters; clipping is refused by Lightning, so
        this task clips by itself.
        """
        settings = dict(template)
        if data_parallel:
            settings["strategy"] = _finding_unused(settings.get("strategy", "auto"))
        self._clip = {key: settings.pop(key, None) for key in ("gradient_clip_val", "gradient_clip_algorithm")}
        watched = settings.get("callbacks") or settings.get("profiler")
        self.in_blocks = self.takes_blocks and not (watched or data_parallel)
        return settings

    def on_train_start(self) -> None:
        """Find out whether a step needs Lightning at all: not in full precision, unwatched and without clipping."""
        plain = self.in_blocks and not self._clip.get("gradient_clip_val")
        self._unaided = plain and steps_need_no_plugin(self.trainer.precision_plugin)

    def feed(self, batches: SizedBatches) -> SizedBatches:
        """Group the batches where several are taken at once."""
        return Blocks(batches, BLOCK) if self.in_blocks else batches

    def batches_in(self, given: Any) -> Iterator[Any]:
        """Yield the batches that a training step was given, on the device."""
        if not self.in_blocks:
            yield given
        elif self.device.type == "cpu":
            yield from given
        else:
            yield from (self.transfer_batch_to_device(batch, self.device, 0) for batch in given)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip where the user asked for it; here a gradient scaler has already taken its scale out."""
        if self._clip.get("gradient_clip_val"):
            self.clip_gradients(optimizer, **self._clip)

    def descend(self, optimizer: Any, loss: Tensor) -> None:
        """Take one step of an optimiser down the gradient of a loss."""
        optimizer.zero_grad()
        if self._unaided:
            loss.backward()
            optimizer.optimizer.step()
        else:
            self.manual_backward(loss)
            optimizer.step()


class LossTask(ManualTask):
    """A task with one loss and one optimiser.

    Outside blocks its optimisation is Lightning's own, which needs nothing special for data-parallel phases.
    """

    takes_blocks = True

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = True

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """Return what to minimise, for one batch on the device."""

    def stepped(self) -> None:
        """Do what follows every step."""

    def amend_trainer(self, template: Mapping[str, Any], data_parallel: bool) -> dict[str, Any]:
        """Leave everything to Lightning, or take steps in blocks."""
        amended = super().amend_trainer(template, data_parallel)
        self.automatic_optimization = not self.in_blocks
        if self.automatic_optimization:
            self._clip = {}
            return dict(template)
        return amended

    def training_step(self, given: Any, batch_idx: int) -> Tensor | None:
        """Return the loss of one batch for Lightning to descend, or take the steps of a block."""
        if self.automatic_optimization:
            return self.loss(given)
        optimizer = self.optimizers()
        for batch in self.batches_in(given):
            self.descend(optimizer, self.loss(batch))
            self.stepped()
        return None

    def on_train_batch_end(self, *_: object) -> None:
        """Follow a step that Lightning has taken."""
        if self.automatic_optimization:
            self.stepped()


def let_learn(parameters: Iterable[nn.Parameter], learns: bool) -> None:
    """Let a backward pass reach these parameters, or spare it the way."""
    for parameter in parameters:
        parameter.requires_grad = learns


def _finding_unused(strategy: Any) -> Any:
    """Turn DDP into its variant that tolerates parameters without gradient."""
    if isinstance(strategy, Mapping):
        return {**strategy, "init_args": {**(strategy.get("init_args") or {}), "find_unused_parameters": True}}
    return "ddp_find_unused_parameters_true"
