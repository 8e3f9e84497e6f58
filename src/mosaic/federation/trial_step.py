"""Try one training step on blank images before a run has a folder.

A bad objective, optimiser or callback is then refused in one line.
"""

from typing import Any, cast

import torch
from torch import nn
from torch.optim import Optimizer

from mosaic.batches import ShuffledBatches
from mosaic.client.objectives import CrossEntropy, LocalContext, LocalObjective
from mosaic.errors import MosaicError, kind_of, printable, settings_of
from mosaic.messages import StateDict
from mosaic.nets.blueprint import Blueprint
from mosaic.nets.inference import to_pixels
from mosaic.signatures import is_ours
from mosaic.tasks.classification import ClassificationTask, OptimizerFactory
from mosaic.training.manual import ManualTask
from mosaic.training.optimizers import adam
from mosaic.training.phases import PhaseRunner


class TrialStep(ClassificationTask):
    """Local training on blank images; callbacks can tell it from the real one by its name."""


class TwoOptimizers(ManualTask):
    """A task with two optimisers, like those that train a generator."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(1, 1), nn.Linear(1, 1)

    def configure_optimizers(self) -> list[Optimizer]:
        """Return one optimiser for each network."""
        return [adam(net.parameters(), 1e-3) for net in (self.one, self.other)]

    def training_step(self, given: Any, batch_idx: int) -> None:
        """Update both networks."""
        for net, optimizer in zip((self.one, self.other), cast(list[Any], self.optimizers()), strict=True):
            self.descend(optimizer, net(torch.zeros(1, 1, device=self.device)).sum())


def take_trial_step(
    phases: PhaseRunner,
    blueprint: Blueprint,
    optimizer: OptimizerFactory,
    rate: float,
    two_optimizers: bool = False,
    objective: LocalObjective = CrossEntropy(),
    batch_size: int = 2,
) -> None:
    """Take a step without a Trainer, then one in a Trainer with the user's callbacks.

    Args:
        phases: runs the step.
        blueprint: builds the network.
        optimizer: makes the optimiser of local training.
        rate: the learning rate of the first round.
        two_optimizers: whether the run has phases with two optimisers, which some callbacks refuse.
        objective: what local training minimises; one of the user's own is tried on a blank batch of all classes.
        batch_size: images in that batch.

    Raises:
        MosaicError: the objective, the optimiser or the Trainer fails.
    """
    start = blueprint.initial(seed=0)
    if not is_ours(objective):
        _try_objective(objective, blueprint, start, batch_size)
    images = torch.zeros(2 * phases.processes, *blueprint.image_shape, dtype=torch.uint8)
    labels = torch.zeros(len(images), dtype=torch.long)
    context = LocalContext(start, labels.bincount(minlength=blueprint.num_classes), blueprint)
    task = TrialStep(blueprint.build(start), CrossEntropy().bind(context), optimizer, rate, to_pixels)
    try:
        by_hand = task.configure_optimizers()
        by_hand.step()
        by_hand.zero_grad()
    except Exception as error:
        raise MosaicError(
            f"model.optimizer: a blank step of local training fails: {_summary(error)}{settings_of(optimizer)}"
        ) from error
    try:
        batches = ShuffledBatches(images, labels, batch_size=len(images), steps=1, seed=0)
        phases.run(task, batches, seed=0)
        if two_optimizers and phases.is_watched:
            phases.run(TwoOptimizers(), batches, seed=0)
    except MosaicError:
        raise
    except Exception as error:
        raise MosaicError(
            f"trainer: a blank step of local training fails with these callbacks and settings: {_summary(error)} "
            "(phases have no logger, no validation and one epoch; metrics are in the run directory)"
        ) from error


def _try_objective(objective: LocalObjective, blueprint: Blueprint, start: StateDict, batch_size: int) -> None:
    labels = torch.arange(batch_size) % blueprint.num_classes
    context = LocalContext(start, labels.bincount(minlength=blueprint.num_classes), blueprint)
    try:
        loss = objective.bind(context)
        loss(blueprint.build(start), torch.zeros(batch_size, *blueprint.image_shape), labels).backward()
    except MosaicError:
        raise
    except Exception as error:
        raise MosaicError(
            f"algorithm.objective: expected {kind_of(objective)}.bind to return a loss of network, pixels and labels "
            f"that is one number with a gradient; a blank step fails: {_summary(error)}"
        ) from error


def _summary(error: Exception) -> str:
    return f"{type(error).__name__}: {printable(str(error))}"
