"""Experts decide between classes that they have seen; a classifier of prototypes helps, and decides where none has."""

from torch import nn

from mosaic.model_pool import ModelPool
from mosaic.nets.gates import FusionGate
from mosaic.nets.teacher import MixtureOfExperts, NoOpinion
from mosaic.server.experts import Experts
from mosaic.teachers.base import GatedTeacher
from mosaic.teachers.evidence import Evidence
from mosaic.teachers.fitting import FitSettings


class Fusion(GatedTeacher):
    """The closed form of :class:`~mosaic.nets.gates.FusionGate`, with a meta model trained on prototypes (ours).

    Where some clients cannot run the global network, there are no features in common to learn a meta model from: it
    then treats all classes alike.

    Args:
        heads_only: as for :class:`~mosaic.teachers.GatedTeacher`.
        head: how the meta model's linear head is trained.
    """

    def __init__(self, heads_only: bool = False, head: FitSettings = FitSettings()) -> None:
        super().__init__(heads_only)
        self.head = head

    def needs_prototypes(self, pool: ModelPool) -> bool:
        """Whether clients are asked for prototypes: where all of them can run the global network."""
        return pool.shares_features

    def mixture(self, experts: Experts, evidence: Evidence) -> MixtureOfExperts:
        """Return experts, meta model and gate."""
        meta: nn.Module = NoOpinion(evidence.context.blueprint.num_classes)
        if self.needs_prototypes(evidence.context.pool):
            meta = evidence.prototype_classifier(self.head)
        return MixtureOfExperts(evidence.opinions(experts, self.heads_only), self.gate(experts, evidence), meta)

    def gate(self, experts: Experts, evidence: Evidence) -> FusionGate:
        """Return the gate that also hears the meta model."""
        return FusionGate(experts.class_counts, evidence.log_prior(experts))
