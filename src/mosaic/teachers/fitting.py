"""Fit small models to labelled examples: gates, and classifiers of prototypes (docs/method.md, section 5)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from mosaic.batches import ShuffledBatches
from mosaic.errors import MosaicError, require_below_one, require_count, require_positive
from mosaic.losses.priors import balanced_class_weights
from mosaic.messages import PrototypeReply
from mosaic.nets.classifier import Classifier
from mosaic.nets.prototype_classifier import PrototypeClassifier, PrototypeKernel
from mosaic.seeding import seeded
from mosaic.tasks.gating import GatingTask
from mosaic.training.phases import PhaseRunner

_CONSTANT = 1e-6
"""Standard deviation below which a feature counts as constant."""


class MissingPrototypesError(MosaicError):
    """No client has sent the prototypes that are needed."""


@dataclass(frozen=True)
class FitSettings:
    """How a small model is fitted to labelled examples.

    Attributes:
        epochs: passes over the examples (ours).
        batch_size: examples per step (ours).
        learning_rate: of Adam (ours: a linear head takes ten times the released gate's).
        average_decay: of the moving average that is used (the released gate's).
    """

    epochs: int = 200
    batch_size: int = 64
    learning_rate: float = 0.01
    average_decay: float = 0.99

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        section = "fitting"
        require_count(section, epochs=self.epochs, batch_size=self.batch_size)
        require_positive(section, learning_rate=self.learning_rate)
        require_below_one(section, average_decay=self.average_decay)


def fit(
    gate: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    num_classes: int,
    settings: FitSettings,
    phases: PhaseRunner,
    seed: int,
) -> tuple[nn.Module, dict[str, Tensor]]:
    """Fit a small model to labelled examples; classes count alike.

    Args:
        gate: untrained; maps inputs to logits.
        inputs: what it looks at, for a gate the experts' logits of shape ``(P, E, C)``.
        labels: true classes, shape ``(P,)``.
        num_classes: C.
        settings: how long and how fast.
        phases: trains.
        seed: of shuffling.

    Returns:
        The gate to use, frozen, and its curves.
    """
    task = GatingTask(
        gate,
        balanced_class_weights(labels, num_classes),
        settings.learning_rate,
        settings.average_decay,
    )
    batch_size = min(settings.batch_size, len(labels))
    steps = phases.dry_run.steps(settings.epochs * -(-len(labels) // batch_size))
    batches = ShuffledBatches(inputs, labels, batch_size=batch_size, steps=steps, seed=seed)
    curves = phases.run(task, batches, seed)
    return task.trained_gate(), curves


def join_prototypes(replies: Sequence[PrototypeReply]) -> tuple[Tensor, Tensor]:
    """Return all clients' prototypes ``(P, F)`` and labels ``(P,)`` in client order.

    Raises:
        MissingPrototypesError: there is none, since nobody has answered or has enough images of any class.
    """
    if not any(len(reply.labels) for reply in replies):
        raise MissingPrototypesError("expected prototypes of some client, got none")
    return torch.cat([reply.prototypes for reply in replies]), torch.cat([reply.labels for reply in replies])


def fit_prototype_classifier(
    trunk: Classifier, prototypes: Tensor, labels: Tensor, settings: FitSettings, phases: PhaseRunner, seed: int
) -> tuple[PrototypeClassifier, dict[str, Tensor]]:
    """Fit a linear head and a kernel to standardised prototypes: the meta model of ``Fusion``.

    Args:
        trunk: the network whose features the prototypes are.
        prototypes: shape ``(P, F)``.
        labels: shape ``(P,)``.
        settings: how long and how fast the head is trained.
        phases: trains the head.
        seed: of its initial weights and of shuffling.

    Returns:
        The classifier, frozen, and the head's curves. The standard deviation of a feature that is the same for all
        prototypes is infinite: it becomes 0 and moves no logit.
    """
    classes, mean, std = trunk.num_classes, prototypes.mean(0), prototypes.std(0, correction=0)
    std = std.masked_fill(std < _CONSTANT, torch.inf)  # what never changes tells nothing, here and of other images
    features = (prototypes - mean) / std
    with seeded(seed):
        head = nn.Linear(prototypes.shape[1], classes)
    trained, curves = fit(head, features, labels, classes, settings, phases, seed)
    kernel = PrototypeKernel(features, labels, classes)
    return PrototypeClassifier(trunk, mean, std, cast(nn.Linear, trained), kernel), curves
