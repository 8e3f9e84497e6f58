"""Make the gate that joins the experts, and train it where it needs training (METHOD section 5)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from mosaic.batches import ShuffledBatches
from mosaic.errors import MosaicError, require_decay, require_positive
from mosaic.messages import PrototypeReply
from mosaic.nets.classifier import Classifier
from mosaic.nets.gates import FusionGate, MeanGate, PriorGate, ResidualGate, TransformerGate
from mosaic.nets.prototype_classifier import PrototypeClassifier, PrototypeKernel
from mosaic.seeding import seeded
from mosaic.server.experts import ExpertPool
from mosaic.tasks.gating import GatingTask, balanced_class_weights
from mosaic.training.phases import PhaseRunner

GateKind = Literal["fusion", "transformer", "residual", "prior", "mean", "prototypes", "owner", "labels"]
GateSpace = Literal["features", "images", "crossed"]
_CONSTANT = 1e-6
"""Standard deviation below which a feature counts as constant."""
CONTROLS = ("mean", "prototypes", "owner", "labels")
"""Teachers without a gate, which every gate must beat."""


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
        require_positive(
            "fitting to prototypes",
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
        )
        require_decay("fitting to prototypes", average_decay=self.average_decay)


@dataclass(frozen=True)
class GateSettings:
    """How the experts' opinions are joined.

    Attributes:
        kind: ``transformer`` (paper, released); ``prior`` (closed form, nothing is trained: logit adjustment,
            arXiv 2007.07314, of every expert); ``residual`` (``prior`` plus a small trained correction that knows who
            speaks, in the manner of FENS, Allouah et al., NeurIPS 2024); ``fusion`` (ours: closed form over pairs of
            classes, joined with a meta model that is trained on the clients' prototypes). Four more are controls, which
            a gate must beat: ``mean`` (the plain ensemble), ``prototypes`` (the meta model of ``fusion`` alone),
            ``owner`` (each image is judged by the model of the client whose generator made it, among that client's
            classes) and ``labels`` (nobody is asked; what is known of an image is where it comes from).
        space: what experts look at. ``features`` (the release trains there): their heads on the global model's
            features, in training and in distillation; ``transformer`` and ``residual`` are then trained on the clients'
            prototypes. ``images`` (paper): whole experts, in both; these two are then trained on generated images,
            labelled by a conditional generator's label or by their owner's expert. ``crossed``: trained as in
            ``features``, used as in ``images`` (released).
        probabilities: whether ``prior`` and ``residual`` average probabilities instead of log-probabilities without
            their prior (ours, a row of the ablation).
        dim: token width of the Transformer (ours: the released gates have up to 20 million parameters).
        epochs: passes over the training examples of a gate that is trained (ours; the release makes one step of all).
        batch_size: examples per step (ours).
        learning_rate: of Adam (released: 1e-3).
        average_decay: of the moving average that is used (released: 0.99).
        head: how the linear head of the ``fusion`` gate's meta model is fitted, which takes longer and larger steps.
    """

    kind: GateKind = "fusion"
    space: GateSpace = "images"
    probabilities: bool = False
    dim: int = 32
    epochs: int = 60
    batch_size: int = 64
    learning_rate: float = 1e-3
    average_decay: float = 0.99
    head: FitSettings = FitSettings()

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        require_positive(
            "algorithm.gate",
            dim=self.dim,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
        )
        require_decay("algorithm.gate", average_decay=self.average_decay)
        if self.dim % TransformerGate.HEADS:
            raise MosaicError(f"algorithm.gate.dim: expected a multiple of {TransformerGate.HEADS}, got {self.dim}")
        if self.space == "crossed" and not self.trained:
            raise MosaicError(
                f"algorithm.gate.space: crossed is for gates that are trained, not for {self.kind}: "
                "use images or features"
            )

    @property
    def fitting(self) -> FitSettings:
        """How the gate itself is trained."""
        return FitSettings(self.epochs, self.batch_size, self.learning_rate, self.average_decay)

    @property
    def trained(self) -> bool:
        """Whether the gate itself has weights to train."""
        return self.kind in ("transformer", "residual")

    @property
    def keeps_prior(self) -> bool:
        """Whether the teacher's answers still carry the label priors of those whom it asks."""
        return self.kind in ("mean", "owner") or (self.kind in ("prior", "residual") and self.probabilities)

    def asks_for_prototypes(self, models_alike: bool) -> bool:
        """Whether clients are asked for prototypes; ``fusion`` can do without where models have nothing in common."""
        return self.kind == "prototypes" or (
            models_alike if self.kind == "fusion" else self.trained and self.space != "images"
        )


def build_gate(settings: GateSettings, experts: ExpertPool, log_prior: Tensor) -> nn.Module:
    """Return an untrained gate.

    Args:
        settings: which gate.
        experts: the pool that it will join.
        log_prior: what is taken out of the experts' opinions, shape ``(E, C)``.
    """
    num_experts, num_classes = experts.authority.shape
    prior = PriorGate(experts.authority, log_prior, settings.probabilities)
    match settings.kind:
        case "fusion":
            return FusionGate(experts.class_counts, log_prior)
        case "prior":
            return prior
        case "residual":
            return ResidualGate(prior, num_experts, num_classes)
        case "transformer":
            return TransformerGate(num_experts, num_classes, settings.dim)
        case _:
            return MeanGate()


def train_gate(
    gate: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    num_classes: int,
    settings: FitSettings,
    phases: PhaseRunner,
    seed: int,
) -> tuple[nn.Module, dict[str, Tensor]]:
    """Fit a gate, or another meta model, to labelled examples; every epoch is a full pass, classes count alike.

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
    steps = phases.limit(settings.epochs * -(-len(labels) // batch_size))
    batches = ShuffledBatches(inputs, labels, batch_size=batch_size, steps=steps, seed=seed)
    curves = phases.run(task, batches, seed)
    return task.trained_gate(), curves


def join_prototypes(replies: Sequence[PrototypeReply]) -> tuple[Tensor, Tensor]:
    """Return all clients' prototypes ``(P, F)`` and labels ``(P,)`` in client order.

    Raises:
        MosaicError: no client of the round holds enough images of any class to send one.
    """
    if not any(len(reply.labels) for reply in replies):
        raise MosaicError(
            "algorithm.prototypes.min_count: expected at most the size of the largest class of some client of this "
            "round, but none of them could send a prototype: lower it, let more clients take part "
            "(federation.schedule.participation), or use algorithm.gate.kind prior, which needs none"
        )
    return torch.cat([reply.prototypes for reply in replies]), torch.cat([reply.labels for reply in replies])


def fit_prototype_classifier(
    trunk: Classifier, prototypes: Tensor, labels: Tensor, settings: FitSettings, phases: PhaseRunner, seed: int
) -> tuple[PrototypeClassifier, dict[str, Tensor]]:
    """Make the meta model of the ``fusion`` gate: a linear head and a kernel on standardised prototypes.

    Args:
        trunk: the network whose features the prototypes are.
        prototypes: shape ``(P, F)``.
        labels: shape ``(P,)``.
        settings: how long and how fast the head is trained.
        phases: trains the head.
        seed: of its initial weights and of shuffling.

    Returns:
        The classifier, frozen, and the head's curves.
    """
    classes = trunk.num_classes
    mean, std, head, curves = fit_linear_head(prototypes, labels, classes, settings, phases, seed)
    kernel = PrototypeKernel((prototypes - mean) / std, labels, classes)
    return PrototypeClassifier(trunk, mean, std, head, kernel), curves


def fit_linear_head(
    prototypes: Tensor, labels: Tensor, num_classes: int, settings: FitSettings, phases: PhaseRunner, seed: int
) -> tuple[Tensor, Tensor, nn.Linear, dict[str, Tensor]]:
    """Train a linear head on standardised prototypes, classes counting alike.

    Args:
        prototypes: shape ``(P, F)``.
        labels: shape ``(P,)``.
        num_classes: C.
        settings: how long and how fast.
        phases: trains.
        seed: of the initial weights and of shuffling.

    Returns:
        Mean ``(F,)`` and standard deviation ``(F,)`` that features are standardised with, the head, and its curves. The
        deviation of a feature that is the same for all prototypes is infinite: it becomes 0 and moves no logit.
    """
    mean, std = prototypes.mean(0), prototypes.std(0, correction=0)
    std = std.masked_fill(std < _CONSTANT, torch.inf)  # what never changes tells nothing, here and of other images
    with seeded(seed):
        head = nn.Linear(prototypes.shape[1], num_classes)
    trained, curves = train_gate(head, (prototypes - mean) / std, labels, num_classes, settings, phases, seed)
    return mean, std, cast(nn.Linear, trained), curves
