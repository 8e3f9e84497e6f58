"""What an algorithm is: a client's half as settings and a server's half as one method."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from mosaic.client.program import ClientProgram
from mosaic.errors import MosaicError
from mosaic.model_pool import PoolKind
from mosaic.nets.blueprint import Blueprint
from mosaic.nets.classifier import Classifier
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

    def check_network(self, blueprint: Blueprint) -> None:  # noqa: B027  # most algorithms work with any network
        """Refuse a global network that some later step cannot work with; a plain average works with any.

        Raises:
            MosaicError: it does not fit.
        """

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


def require_features(net: Classifier, wanted_by: str) -> None:
    """Refuse networks whose ``features`` are no vectors.

    Args:
        net: of the run.
        wanted_by: the key of the configuration that needs them.

    Raises:
        MosaicError: they are not.
    """
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        features = net.eval().features(torch.zeros(2, *net.image_shape))
    if not isinstance(features, Tensor) or features.dim() != 2 or len(features) != 2:
        got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise MosaicError(
            f"model.net: {wanted_by} needs a vector of features for each image, shape (B, F), got {got} for two images "
            "from features(): flatten them there"
        )


def require_linear_head(net: Classifier, wanted_by: str, advice: str) -> None:
    """Refuse networks whose head is not one linear layer with a bias, on its features.

    Raises:
        MosaicError: it is something else.
    """
    if not isinstance(net.head, nn.Linear) or net.head.bias is None:
        got = "a linear layer without bias" if isinstance(net.head, nn.Linear) else type(net.head).__name__
        raise MosaicError(
            f"model.net: {wanted_by} needs a head that is one torch.nn.Linear with a bias, got {got}: {advice}"
        )
