"""Controls: teachers without a gate, which every gate must beat."""

from mosaic.model_pool import ModelPool
from mosaic.nets.gates import MeanGate
from mosaic.nets.teacher import NoOpinion
from mosaic.server.distillation import Teacher
from mosaic.server.experts import Experts
from mosaic.teachers.answers import ask_teacher
from mosaic.teachers.base import GatedTeacher, TeacherFactory
from mosaic.teachers.evidence import Evidence
from mosaic.teachers.fitting import FitSettings


class Mean(GatedTeacher):
    """The plain ensemble: the mean of the experts' probabilities.

    Args:
        heads_only: as for :class:`~mosaic.teachers.GatedTeacher`.
    """

    keeps_label_prior = True

    def gate(self, experts: Experts, evidence: Evidence) -> MeanGate:
        """Return the mean."""
        return MeanGate()


class Prototypes(TeacherFactory):
    """The meta model of :class:`~mosaic.teachers.Fusion` alone, without experts.

    Args:
        head: how its linear head is trained.
    """

    def __init__(self, head: FitSettings = FitSettings()) -> None:
        self.head = head

    def needs_prototypes(self, pool: ModelPool) -> bool:
        """Whether clients are asked for prototypes: always."""
        return True

    def form(self, experts: Experts, evidence: Evidence) -> Teacher:
        """Train a classifier on the prototypes."""
        classifier = evidence.prototype_classifier(self.head)
        evidence.observe(experts, self.heads_only)
        evidence.context.observe(classifier, "gated teacher")
        return lambda source: ask_teacher(classifier, source.images)


class Owner(TeacherFactory):
    """Each image is labelled by the model of the client whose generator made it, among that client's classes."""

    keeps_label_prior = True

    def needs_owners(self, conditional: bool) -> bool:
        """Whether owners label their images: always."""
        return True

    def form(self, experts: Experts, evidence: Evidence) -> Teacher:
        """Ask the owners."""
        evidence.observe(experts, self.heads_only)
        return evidence.owners_answer


class Labels(TeacherFactory):
    """No model is asked: images are labelled by their origin alone."""

    ignores_pixels = True

    def form(self, experts: Experts, evidence: Evidence) -> Teacher:
        """Return a teacher without an opinion."""
        evidence.observe(experts, self.heads_only)
        opinion = NoOpinion(evidence.context.blueprint.num_classes)
        return lambda source: opinion(source.images)
