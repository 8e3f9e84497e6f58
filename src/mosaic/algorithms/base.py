"""What an algorithm is: a client's half as settings and a server's half as one method."""

from abc import ABC, abstractmethod
from typing import ClassVar

from mosaic.client.program import ClientProgram
from mosaic.errors import MosaicError
from mosaic.model_pool import PoolKind
from mosaic.server.cohort import Cohort
from mosaic.server.context import RoundContext
from mosaic.server.state import ServerState

_MEANS: dict[PoolKind, str] = {
    "same": "one model for all clients",
    "widths": "sub-models of different widths",
    "architectures": "different architectures, whose tensors have no average",
}


class Algorithm(ABC):
    """One communication round.

    Args:
        program: what clients do when asked.

    Attributes:
        supports: which pools of models it can work with, and what to say where it cannot.
        gathers_data: whether it is a control for which all clients' images are brought to one client.
        heeds: what its rounds read of their plan beside clients, steps and rate, out of ``distils``, ``last`` and
            ``rounds``; a run cannot go on with a schedule that would have changed these for rounds it has finished.
    """

    supports: ClassVar[frozenset[PoolKind]] = frozenset({"same"})
    gathers_data: ClassVar[bool] = False
    heeds: ClassVar[frozenset[str]] = frozenset({"distils", "last", "rounds"})

    def check_pool(self, kind: PoolKind) -> None:
        """Refuse clients whose models differ in a way that this algorithm cannot work with.

        Raises:
            MosaicError: the algorithm does not support the pool.
        """
        if kind not in self.supports:
            raise MosaicError(
                f"clients: {type(self).__name__} cannot work with {_MEANS[kind]}: "
                f"it needs {' or '.join(_MEANS[each] for each in ('same', 'widths') if each in self.supports)}. "
                "mosaic.algorithms.Mosaic works with all of these, mosaic.algorithms.FedAvg with clients.levels"
            )

    def asks_for_prototypes(self, kind: PoolKind) -> bool:
        """Whether some round needs the clients' prototypes, so that a run in which none can be sent is not begun."""
        return False

    def __init__(self, program: ClientProgram) -> None:
        self.program = program

    @abstractmethod
    def round(self, state: ServerState, cohort: Cohort, context: RoundContext) -> ServerState:
        """Compute the next state of the server.

        Args:
            state: what the server knows.
            cohort: the clients that take part.
            context: plan, seeds, training and observation.
        """
