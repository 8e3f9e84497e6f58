"""What every partition is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np

from mosaic.data.holdings import Holding, hold_out
from mosaic.errors import MosaicError

Groups = Mapping[str, np.ndarray]
"""What a source knows of each image beside its class, such as its domain or writer, by name, each of shape ``(n,)``."""


class Partition(ABC):
    """A rule that deals training images out to clients.

    Args:
        num_clients: N, at least 1; ``None`` for rules that take it from the data.
    """

    num_clients: int | None

    def __init__(self, num_clients: int | None) -> None:
        if num_clients is not None and num_clients < 1:
            raise MosaicError(f"data.partition.num_clients: expected at least 1, got {num_clients}")
        self.num_clients = num_clients

    @property
    def origin(self) -> str:
        """Key and class, for errors."""
        return f"data.partition ({type(self).__name__})"

    @abstractmethod
    def split(self, labels: np.ndarray, seed: int, groups: Groups) -> list[np.ndarray]:
        """Return the image indices of every client.

        Args:
            labels: integer classes of the training images, shape ``(n,)``.
            seed: of the draw; the same seed gives the same split on any machine.
            groups: what the source knows of each image beside its class; most rules do not look.

        Returns:
            N sorted index arrays that together hold every index exactly once; rules of flwr-datasets may leave images
            out, which the log then says.

        Raises:
            MosaicError: the request is impossible for these labels.
        """

    def deal(self, labels: np.ndarray, seed: int, groups: Groups, validation_share: float) -> list[Holding]:
        """Split, then cut every client's validation images off its own, class by class.

        Args:
            labels: as in :meth:`split`.
            seed: as in :meth:`split`; it decides the validation images too.
            groups: as in :meth:`split`.
            validation_share: of each client's images, in ``[0, 1)``.

        Returns:
            What each of N clients holds.

        Raises:
            MosaicError: the request is impossible for these labels.
        """
        parts = self.split(labels, seed, groups)
        return [hold_out(labels, part, validation_share, (seed, client)) for client, part in enumerate(parts)]


def check_enough_images(num_clients: int, num_images: int) -> None:
    """Check that there is an image for every client.

    Raises:
        MosaicError: there is not.
    """
    if num_clients > num_images:
        raise MosaicError(
            f"data.partition.num_clients: expected at most {num_images}, the number of training images, "
            f"got {num_clients}: lower it, or bring more images with data.source"
        )
