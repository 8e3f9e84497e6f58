"""FedProx: clients stay near the model that they receive."""

from mosaic.algorithms.fedavg import FedAvg
from mosaic.client.objectives import Proximal
from mosaic.errors import require_at_least_zero


class FedProx(FedAvg):
    """FedAvg with a proximal local objective (Li et al. 2020, arXiv 1812.06127, Eq. 2).

    **Deviation:** every client takes the full number of local steps; the paper also lets slow ones stop early.

    Args:
        mu: weight of ``mu / 2 * ||theta_i - theta||^2``, see :class:`~mosaic.client.objectives.Proximal`; 0 gives
            FedAvg exactly.

    Raises:
        MosaicError: mu is negative.
    """

    def __init__(self, mu: float = 0.01) -> None:
        require_at_least_zero("algorithm", mu=mu)
        super().__init__(Proximal(mu))
