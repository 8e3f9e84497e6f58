"""A control that a mixture must beat: FedAvg with its head retrained on prototypes."""

import logging
from dataclasses import replace

from mosaic.algorithms.fedavg import FedAvg
from mosaic.client.objectives import CrossEntropy, LocalObjective
from mosaic.client.program import ClientProgram
from mosaic.client.prototypes import PrototypeSettings
from mosaic.messages import StateDict
from mosaic.model_pool import PoolKind
from mosaic.nets.blueprint import Blueprint
from mosaic.nets.prototype_classifier import folded_head
from mosaic.nets.requirements import require_features, require_linear_head
from mosaic.server.cohort import Cohort
from mosaic.server.context import RoundContext
from mosaic.server.state import ServerState
from mosaic.teachers.fitting import FitSettings, MissingPrototypesError, fit_linear_head, join_prototypes

log = logging.getLogger(__name__)


class PrototypeHead(FedAvg):
    """FedAvg; after the last round the averaged model's linear head is retrained on the clients' prototypes.

    No experts and no generators: whatever a mixture adds, it adds to this. In the manner of CCVR (Luo et al., NeurIPS
    2021, arXiv 2106.05001), which samples class Gaussians where this takes cluster centres.

    Args:
        objective: what local training minimises.
        prototypes: how clients summarise their images.
        fitting: how the head is retrained.
    """

    supports = frozenset[PoolKind]({"same"})
    resume_sensitive_to = frozenset[str]({"last"})

    def __init__(
        self,
        objective: LocalObjective = CrossEntropy(),
        prototypes: PrototypeSettings = PrototypeSettings(),
        fitting: FitSettings = FitSettings(),
    ) -> None:
        super().__init__(objective)
        self.program = ClientProgram(objective, prototypes=prototypes)
        self.fitting = fitting

    def check_network(self, blueprint: Blueprint, kind: PoolKind) -> None:
        """Refuse networks whose head cannot be replaced.

        Raises:
            MosaicError: features are no vectors, or the head is not one linear layer with a bias.
        """
        net = blueprint.build(blueprint.initial(seed=0))
        require_features(net, "mosaic.algorithms.PrototypeHead")
        require_linear_head(net, "mosaic.algorithms.PrototypeHead", "give it one, or choose another algorithm")

    def needs_prototypes(self, kind: PoolKind) -> bool:
        """Whether the new head needs them: always."""
        return True

    def round(self, state: ServerState, cohort: Cohort, context: RoundContext) -> ServerState:
        """Run FedAvg's round; in the last one, give the average a new head."""
        state = super().round(state, cohort, context)
        return replace(state, model=self._new_head(state.model, cohort, context)) if context.plan.last else state

    def _new_head(self, model: StateDict, cohort: Cohort, context: RoundContext) -> StateDict:
        """Retrain the head and fold the features' standardisation into it; without prototypes the old one stays."""
        try:
            prototypes, labels = join_prototypes(cohort.prototypes(model), len(context.plan.clients))
        except MissingPrototypesError:
            log.warning("round %d: no client has sent a prototype, so the averaged head stays", context.plan.round)
            return model
        net = context.blueprint.build(model)
        context.observe(net, "global before its new head")
        with context.measure("head"):
            mean, std, head, curves = fit_linear_head(
                prototypes, labels, net.num_classes, self.fitting, context.phases, context.seed_for("head")
            )
        context.recorder.curves("head", curves)
        return {**model, **folded_head(head, mean, std)}
