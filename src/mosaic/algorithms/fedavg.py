"""Federated averaging."""

from mosaic.algorithms.base import Algorithm
from mosaic.client.objectives import CrossEntropy, LocalObjective
from mosaic.client.program import ClientProgram
from mosaic.errors import MosaicError
from mosaic.model_pool import PoolKind
from mosaic.privacy.settings import Privacy
from mosaic.server.cohort import Cohort
from mosaic.server.context import RoundContext
from mosaic.server.state import ServerState
from mosaic.server.uploads import Uploads


class FedAvg(Algorithm):
    """Average what clients have trained (McMahan et al. 2017, arXiv 1602.05629, Algorithm 1).

    With sub-models of different widths it is HeteroFL, Federated Dropout or FedRolex, as ``clients.slicing`` says.

    Args:
        objective: what local training minimises.
    """

    supports = frozenset[PoolKind]({"same", "widths"})
    resume_sensitive_to = frozenset[str]()

    def __init__(self, objective: LocalObjective = CrossEntropy()) -> None:
        super().__init__(ClientProgram(objective=objective))

    def check_privacy(self, privacy: Privacy) -> None:
        """Take a budget for local training; algorithms that add something to averages need more than it allows.

        Raises:
            MosaicError: it has no share for training, or one for what is never asked for, or this is another algorithm.
        """
        if type(self) is not FedAvg or not privacy.trains or not isinstance(self.program.objective, CrossEntropy):
            super().check_privacy(privacy)
        if privacy.shares.released > 0:
            raise MosaicError(
                "privacy.shares: expected 0 for counts, means and moments, which FedAvg does not ask for, got "
                f"{privacy.shares.released:g} in all, which would be lost: set them to 0, and training to 1"
            )

    def round(self, state: ServerState, cohort: Cohort, context: RoundContext) -> ServerState:
        """Broadcast, train locally, average."""
        return ServerState(cohort.train(state.model, Uploads).average())
