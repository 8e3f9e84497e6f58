"""Make the gate that joins the experts, and train it where it needs training (METHOD section 5)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mosaic.batches import ShuffledBatches
from mosaic.messages import PrototypeReply
from mosaic.nets.gates import PriorGate, ResidualGate, TransformerGate
from mosaic.phases import PhaseRunner
from mosaic.server.experts import ExpertPool
from mosaic.tasks.gating import GatingTask, balanced_class_weights

GateKind = Literal["transformer", "residual", "prior"]
GateSpace = Literal["features", "images"]


@dataclass(frozen=True)
class GateSettings:
    """How the experts' opinions are joined.

    Attributes:
        kind: ``transformer`` (paper), ``residual`` (``prior`` plus a small trained correction), or ``prior`` (closed
            form, nothing is trained).
        space: what experts look at, in training and in distillation alike. ``features``: their heads on the global
            model's features, trained on the clients' prototypes. ``images``: whole experts, trained on generated images
            labelled by their origin. The released code trains in the first and uses the second.
        dim: token width of the Transformer.
        epochs: passes over the training examples.
        batch_size: examples per step.
        learning_rate: of Adam (released: 1e-3).
        average_decay: of the moving average that is used (released: 0.99).
    """

    kind: GateKind = "prior"
    space: GateSpace = "images"
    dim: int = 32
    epochs: int = 60
    batch_size: int = 64
    learning_rate: float = 1e-3
    average_decay: float = 0.99

    @property
    def is_trained(self) -> bool:
        """Whether this gate needs labelled examples."""
        return self.kind != "prior"


def build_gate(settings: GateSettings, experts: ExpertPool, adjusted: bool) -> nn.Module:
    """Return an untrained gate.

    Args:
        settings: which gate.
        experts: the pool that it will join.
        adjusted: whether the experts' training loss has already taken their label prior out.
    """
    log_prior = torch.zeros_like(experts.prior) if adjusted else experts.prior.log()
    prior = PriorGate(experts.authority, log_prior)
    num_experts, num_classes = experts.authority.shape
    match settings.kind:
        case "prior":
            return prior
        case "residual":
            return ResidualGate(prior, num_experts, num_classes)
        case "transformer":
            return TransformerGate(num_experts, num_classes, settings.dim)


def train_gate(
    gate: nn.Module, opinions: Tensor, labels: Tensor, settings: GateSettings, phases: PhaseRunner, seed: int
) -> tuple[nn.Module, dict[str, Tensor]]:
    """Fit a gate to labelled opinions; every epoch is a full pass.

    Args:
        gate: untrained.
        opinions: experts' logits, shape ``(P, E, C)``.
        labels: true classes, shape ``(P,)``.
        settings: how long and how fast.
        phases: trains.
        seed: of shuffling.

    Returns:
        The gate to use, frozen, and its curves.
    """
    task = GatingTask(
        gate,
        balanced_class_weights(labels, opinions.shape[2]),
        settings.learning_rate,
        settings.average_decay,
    )
    batch_size = min(settings.batch_size, len(labels))
    steps = phases.limit(settings.epochs * -(-len(labels) // batch_size))
    batches = ShuffledBatches(opinions, labels, batch_size=batch_size, steps=steps, seed=seed)
    curves = phases.run(task, batches, seed)
    return task.trained_gate(), curves


def join_prototypes(replies: Sequence[PrototypeReply]) -> tuple[Tensor, Tensor]:
    """Return all clients' prototypes ``(P, F)`` and labels ``(P,)`` in client order."""
    return torch.cat([reply.prototypes for reply in replies]), torch.cat([reply.labels for reply in replies])
