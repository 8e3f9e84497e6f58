"""All images at one client."""

from collections.abc import Sequence

import numpy as np

from mosaic.data.holdings import Holding, gather
from mosaic.data.partitions.base import Groups, Partition


class GatheredPartition(Partition):
    """One client that holds what several have held, for controls that train in one place.

    Training images stay training images, and validation images validation images, so that the control trains on and
    is judged by the same ones as the clients; seed and share play no part.

    Args:
        holdings: of the several.
    """

    num_clients: int

    def __init__(self, holdings: Sequence[Holding]) -> None:
        super().__init__(num_clients=1)
        self._holding = gather(holdings)

    def split(self, labels: np.ndarray, seed: int, groups: Groups) -> list[np.ndarray]:
        """Return all images, training and validation images together."""
        return [np.sort(np.concatenate(self._holding))]

    def deal(self, labels: np.ndarray, seed: int, groups: Groups, validation_share: float) -> list[Holding]:
        """Return everything, at one client."""
        return [self._holding]
