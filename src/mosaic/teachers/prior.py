"""Experts weighted by the classes that they hold, in closed form."""

from mosaic.nets.gates import PriorGate
from mosaic.server.experts import Experts
from mosaic.teachers.base import GatedTeacher
from mosaic.teachers.evidence import Evidence


class Prior(GatedTeacher):
    """Logit adjustment of every expert (Menon et al. 2021, arXiv 2007.07314), then a mean by class; nothing is trained.

    Args:
        heads_only: as for :class:`~mosaic.teachers.GatedTeacher`.
        probabilities: whether probabilities are averaged instead of log-probabilities without their prior (ours).
    """

    def __init__(self, heads_only: bool = False, probabilities: bool = False) -> None:
        super().__init__(heads_only)
        self.probabilities = self.keeps_label_prior = probabilities

    def gate(self, experts: Experts, evidence: Evidence) -> PriorGate:
        """Return the closed form."""
        return PriorGate(experts.authority, evidence.log_prior(experts), self.probabilities)
