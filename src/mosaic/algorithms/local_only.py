"""Local training alone, a control: the lower end of the scale."""

from mosaic.algorithms.base import Algorithm
from mosaic.client.objectives import CrossEntropy, LocalObjective
from mosaic.client.program import ClientProgram
from mosaic.model_pool import PoolKind
from mosaic.server.cohort import Cohort
from mosaic.server.context import RoundContext
from mosaic.server.state import ServerState
from mosaic.server.uploads import Uploads


class LocalOnly(Algorithm):
    """Each client trains a model of its own and never shares it: what federated learning must beat.

    All start from the same initial weights and take the steps, and the rates, of the schedule. There is no global
    model: a run reports the mean over clients, by images, of their own models' test accuracy. Where clients' networks
    differ, each trains its own: a narrow one is initialised as narrow, not cut out of the wide one.

    Args:
        objective: what local training minimises.
    """

    supports = frozenset[PoolKind]({"same", "widths", "architectures"})
    resume_sensitive_to = frozenset[str]()

    def __init__(self, objective: LocalObjective = CrossEntropy()) -> None:
        super().__init__(ClientProgram(objective, personal="model"))

    def round(self, state: ServerState, cohort: Cohort, context: RoundContext) -> ServerState:
        """Let every client train; only counts and losses come back."""
        cohort.train(state.model, Uploads)
        return state
