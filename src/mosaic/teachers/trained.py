"""Gates with weights of their own, trained on prototypes or on generated images."""

from abc import abstractmethod

from torch import nn

from mosaic.errors import MosaicError, require_count
from mosaic.model_pool import ModelPool
from mosaic.nets.gates import PriorGate, ResidualGate, TransformerGate
from mosaic.seeding import seeded
from mosaic.server.experts import Experts
from mosaic.teachers.base import GatedTeacher
from mosaic.teachers.evidence import Evidence
from mosaic.teachers.fitting import FitSettings

GATE_FITTING = FitSettings(epochs=60, batch_size=64, learning_rate=1e-3, average_decay=0.99)
"""Epochs and batch size are ours (the release makes one step of all), rate and decay the released ones."""


class TrainedTeacher(GatedTeacher):
    """A gate that is trained before it joins the experts. A gate of your own overrides :meth:`untrained`.

    Args:
        heads_only: as for :class:`~mosaic.teachers.GatedTeacher`.
        fit_on_prototypes: whether the gate is trained on what the experts' heads say of the clients' prototypes
            (released), instead of what the experts say of generated images (paper).
        fitting: how it is trained.
    """

    def __init__(
        self, heads_only: bool = False, fit_on_prototypes: bool = False, fitting: FitSettings = GATE_FITTING
    ) -> None:
        super().__init__(heads_only)
        self.fit_on_prototypes, self.fitting = fit_on_prototypes, fitting
        self.needs_linear_heads = heads_only or fit_on_prototypes

    def needs_prototypes(self, pool: ModelPool) -> bool:
        """Whether clients are asked for prototypes: where the gate is trained on them."""
        return self.fit_on_prototypes

    def needs_owners(self, conditional: bool) -> bool:
        """Whether owners label their images: where the gate is trained on images of unknown classes."""
        return not (self.fit_on_prototypes or conditional)

    def gate(self, experts: Experts, evidence: Evidence) -> nn.Module:
        """Return the trained gate."""
        with seeded(evidence.context.seed_for("gate/init")):
            gate = self.untrained(experts, evidence)
        if self.fit_on_prototypes:
            return evidence.fit_gate(gate, *evidence.opinions_on_prototypes(experts), self.fitting)
        return evidence.fit_gate(gate, *evidence.opinions_on_images(experts, self.heads_only), self.fitting)

    @abstractmethod
    def untrained(self, experts: Experts, evidence: Evidence) -> nn.Module:
        """Return the gate with its initial weights; it maps ``(B, E, C)`` to ``(B, C)``."""


class Transformer(TrainedTeacher):
    """The paper's meta model: attention over the experts' opinions.

    Args:
        heads_only: as for :class:`~mosaic.teachers.GatedTeacher`.
        fit_on_prototypes: as for :class:`~mosaic.teachers.TrainedTeacher`.
        dim: token width (ours: the released gates have up to 20 million parameters).
        fitting: how it is trained.
    """

    def __init__(
        self,
        heads_only: bool = False,
        fit_on_prototypes: bool = False,
        dim: int = 32,
        fitting: FitSettings = GATE_FITTING,
    ) -> None:
        super().__init__(heads_only, fit_on_prototypes, fitting)
        require_count("algorithm.teacher", dim=dim)
        if dim % TransformerGate.HEADS:
            raise MosaicError(f"algorithm.teacher.dim: expected a multiple of {TransformerGate.HEADS}, got {dim}")
        self.dim = dim

    def untrained(self, experts: Experts, evidence: Evidence) -> TransformerGate:
        """Return the gate with its initial weights."""
        num_experts, num_classes = experts.authority.shape
        return TransformerGate(num_experts, num_classes, self.dim)


class Residual(TrainedTeacher):
    """The closed form of :class:`~mosaic.teachers.Prior` plus a small trained correction.

    The correction knows which expert speaks, in the manner of FENS (Allouah et al., NeurIPS 2024).

    Args:
        heads_only: as for :class:`~mosaic.teachers.GatedTeacher`.
        fit_on_prototypes: as for :class:`~mosaic.teachers.TrainedTeacher`.
        probabilities: as for :class:`~mosaic.teachers.Prior`.
        fitting: how the correction is trained.
    """

    def __init__(
        self,
        heads_only: bool = False,
        fit_on_prototypes: bool = False,
        probabilities: bool = False,
        fitting: FitSettings = GATE_FITTING,
    ) -> None:
        super().__init__(heads_only, fit_on_prototypes, fitting)
        self.probabilities = self.keeps_label_prior = probabilities

    def untrained(self, experts: Experts, evidence: Evidence) -> ResidualGate:
        """Return the closed form with a correction of zero."""
        prior = PriorGate(experts.authority, evidence.log_prior(experts), self.probabilities)
        num_experts, num_classes = experts.authority.shape
        return ResidualGate(prior, num_experts, num_classes)
