"""A control that a mixture must beat: FedAvg with a new head made from prototypes."""

from dataclasses import replace

from mosaic.algorithms.fedavg import FedAvg
from mosaic.client.objectives import CrossEntropy, LocalObjective
from mosaic.client.prototypes import PrototypeSettings
from mosaic.model_pool import ModelPool
from mosaic.server.cohort import Cohort
from mosaic.server.context import RoundContext
from mosaic.server.new_head import check_head, offer_new_head, without_new_head
from mosaic.server.state import ServerState


class PrototypeHead(FedAvg):
    """FedAvg; after the last round clients are offered the averaged model with the linear discriminant of prototypes.

    No experts and no generators: whatever a mixture adds, it adds to this. In the manner of CCVR (Luo et al., NeurIPS
    2021, arXiv 2106.05001), which trains a head on samples of class Gaussians. **Deviation:** the head is a closed form
    (:func:`~mosaic.nets.discriminant.linear_discriminant`) that clients may refuse, instead of one that is trained to
    convergence: Mosaic offers the same new head, so that the two differ by the mixture alone, and a head that was
    trained on the same prototypes was worth less (docs/results.md).

    Args:
        objective: what local training minimises.
        prototypes: how clients summarise their images.
    """

    def __init__(
        self,
        objective: LocalObjective = CrossEntropy(),
        prototypes: PrototypeSettings = PrototypeSettings(),
    ) -> None:
        super().__init__(objective)
        self.program = replace(self.program, prototypes=prototypes)

    def check_network(self, pool: ModelPool) -> None:
        """Refuse networks whose head cannot be replaced.

        Raises:
            MosaicError: features are no vectors, or the head is not one linear layer with a bias.
        """
        check_head(pool.blueprint.build(pool.blueprint.initial(seed=0)), "mosaic.algorithms.PrototypeHead")

    def needs_prototypes(self, pool: ModelPool) -> bool:
        """Whether the new head needs them: always."""
        return True

    def round(self, state: ServerState, cohort: Cohort, context: RoundContext) -> ServerState:
        """Run FedAvg's round; in the last one, offer the average with a new head."""
        state = super().round(without_new_head(state), cohort, context)
        return offer_new_head(state, cohort, context) if context.plan.last else state
