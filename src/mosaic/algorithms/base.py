"""The base class of algorithms: settings for the clients, one method for the server."""

from abc import ABC, abstractmethod
from typing import ClassVar

from mosaic.client.program import ClientProgram
from mosaic.errors import MosaicError
from mosaic.model_pool import ModelPool, PoolKind
from mosaic.privacy.settings import Privacy
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
        program: what clients do when they are asked.

    Attributes:
        supports: how the clients' models may differ.
        gathers_data: whether all images are brought to one client, as in a centralised control.
        resume_sensitive_to: what else its rounds read of their plan, out of ``distils`` (whether the
            server distils), ``distillation`` (also how many such rounds there are), ``last`` and ``rounds``. A run
            is not resumed with a schedule that changes this for rounds that it has finished.
        trains_two: whether some phase trains two networks in turns, each with its own optimiser, which some callbacks
            refuse.
    """

    supports: ClassVar[frozenset[PoolKind]] = frozenset({"same"})
    gathers_data: ClassVar[bool] = False
    resume_sensitive_to: ClassVar[frozenset[str]] = frozenset({"distillation", "last", "rounds"})
    trains_two: bool = False

    def check_pool(self, pool: ModelPool) -> None:
        """Refuse clients whose models differ in a way that this algorithm cannot work with.

        Raises:
            MosaicError: the algorithm does not support the pool, or needs prototypes of clients that cannot run the
                global network.
        """
        if pool.kind not in self.supports:
            raise MosaicError(
                f"clients: {type(self).__name__} cannot work with {_MEANS[pool.kind]}: "
                f"it needs {' or '.join(_MEANS[each] for each in ('same', 'widths') if each in self.supports)}. "
                "mosaic.algorithms.Mosaic works with all of these, as do DENSE, CoBoosting and LocalOnly; FedAvg works "
                "with clients.levels"
            )
        if self.needs_prototypes(pool) and not pool.shares_features:
            raise MosaicError(
                "clients.evaluate_whole: expected true, since prototypes are needed in the features of the global "
                "network, which all clients must run for that, got false: set it to true, or use "
                "mosaic.teachers.Fusion, which can do without, or another algorithm"
            )

    def check_privacy(self, privacy: Privacy) -> None:
        """Refuse a privacy budget, unless this algorithm has a way to work with what it allows clients to say.

        Raises:
            MosaicError: it has none.
        """
        raise MosaicError(
            f"privacy: expected an algorithm that needs no more than a privacy budget allows, got "
            f"{type(self).__name__} or one of its settings: use mosaic.algorithms.Mosaic with ClassGaussians, or "
            "mosaic.algorithms.FedAvg with privacy.local_training dp_sgd"
        )

    def check_network(self, pool: ModelPool) -> None:  # noqa: B027  # most algorithms work with any network
        """Refuse a global network that the algorithm cannot work with.

        Raises:
            MosaicError: it does not fit.
        """

    def needs_prototypes(self, pool: ModelPool) -> bool:
        """Whether some round needs the clients' prototypes."""
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


def require_program(algorithm: Algorithm) -> None:
    """Refuse an algorithm of one's own that has said nothing of its clients.

    Raises:
        MosaicError: its ``__init__`` has not called that of its parent.
    """
    if not isinstance(getattr(algorithm, "program", None), ClientProgram):
        name = type(algorithm).__name__
        raise MosaicError(f"algorithm: expected {name}.__init__ to call super().__init__, which says what clients do")
