"""FedRS: clients hardly train the classes that they lack."""

from mosaic.algorithms.fedavg import FedAvg
from mosaic.client.objectives import RestrictedSoftmax
from mosaic.errors import require_share


class FedRS(FedAvg):
    """FedAvg with a restricted softmax in local training (Li and Zhan, KDD 2021, doi 10.1145/3447548.3467254).

    Args:
        alpha: scale of the logits of absent classes, see :class:`~mosaic.client.objectives.RestrictedSoftmax`; 1 gives
            FedAvg exactly.

    Raises:
        MosaicError: alpha is not in ``[0, 1]``.
    """

    def __init__(self, alpha: float = 0.5) -> None:
        require_share("algorithm", alpha=alpha)
        super().__init__(RestrictedSoftmax(alpha))
