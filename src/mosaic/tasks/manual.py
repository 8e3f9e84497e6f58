"""What tasks share that step several optimisers by themselves."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from mosaic.tasks.base import Task


class ManualTask(Task):
    """A task under manual optimisation, which may take many optimiser steps in one training step."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self._clip: dict[str, Any] = {}

    def amend_trainer(self, template: Mapping[str, Any], data_parallel: bool) -> dict[str, Any]:
        """Allow for what manual optimisation with two optimisers forbids.

        DistributedDataParallel sees each backward pass use half of the parameters; clipping and accumulation are
        refused by Lightning, so this task clips by itself and does not accumulate.
        """
        settings = dict(template)
        if data_parallel:
            settings["strategy"] = _finding_unused(settings.get("strategy", "auto"))
        self._clip = {key: settings.pop(key, None) for key in ("gradient_clip_val", "gradient_clip_algorithm")}
        settings.pop("accumulate_grad_batches", None)
        return settings

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip where the user asked for it; here a gradient scaler has already taken its scale out."""
        if self._clip.get("gradient_clip_val"):
            self.clip_gradients(optimizer, **self._clip)

    def descend(self, optimizer: Any, loss: Tensor) -> None:
        """Take one step of an optimiser down the gradient of a loss."""
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


def let_learn(parameters: Iterable[nn.Parameter], learns: bool) -> None:
    """Let a backward pass reach these parameters, or spare it the way."""
    for parameter in parameters:
        parameter.requires_grad = learns


def _finding_unused(strategy: Any) -> Any:
    """Turn DDP into its variant that tolerates parameters without gradient."""
    if isinstance(strategy, Mapping):
        return {**strategy, "init_args": {**(strategy.get("init_args") or {}), "find_unused_parameters": True}}
    return "ddp_find_unused_parameters_true"
