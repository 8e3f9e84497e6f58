"""What an algorithm is: a client's half as settings and a server's half as one method."""

from abc import ABC, abstractmethod

from mosaic.client.program import ClientProgram
from mosaic.server.cohort import Cohort
from mosaic.server.context import RoundContext
from mosaic.server.state import ServerState


class Algorithm(ABC):
    """One communication round.

    Args:
        program: what clients do when asked.
    """

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
