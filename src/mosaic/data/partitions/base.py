"""What every partition is."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np

from mosaic.data.holdings import Holding, hold_out
from mosaic.errors import MosaicError

log = logging.getLogger(__name__)

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
            N index arrays, none of which shares an index with another; a rule may leave images out, which the log
            then says.

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
        parts = self._checked(self.split(labels, seed, groups), len(labels))
        return [hold_out(labels, part, validation_share, (seed, client)) for client, part in enumerate(parts)]

    def _checked(self, parts: object, count: int) -> list[np.ndarray]:
        """Return parts as sorted arrays, and say how many images nobody holds.

        Raises:
            MosaicError: they are no lists of indices, or not one for each client.
        """
        if not isinstance(parts, Sequence) or isinstance(parts, str):
            raise MosaicError(
                f"{self.origin}: expected a list of index arrays from split(), one for each client, got "
                f"{type(parts).__name__}"
            )
        if self.num_clients is not None and len(parts) != self.num_clients:
            raise MosaicError(
                f"{self.origin}: expected {self.num_clients} parts from split(), one for each client, got {len(parts)}"
            )
        arrays = [self._indices(part, client, count) for client, part in enumerate(parts)]
        if left_out := count - len(np.unique(np.concatenate(arrays))):
            log.warning("%s dealt %d of %d images to nobody", self.origin, left_out, count)
        return arrays

    def _indices(self, part: object, client: int, count: int) -> np.ndarray:
        try:
            indices = np.asarray(part)
        except ValueError:  # rows of different lengths
            indices = np.asarray(None)
        if indices.ndim == 1 and indices.size == 0:
            return np.empty(0, dtype=np.int64)
        if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer):
            raise MosaicError(
                f"{self.origin}: expected the indices of client {client} as whole numbers of shape (n,), got "
                f"{indices.dtype} of shape {indices.shape}"
            )
        if not 0 <= indices.min() <= indices.max() < count:
            raise MosaicError(
                f"{self.origin}: expected indices in 0..{count - 1}, one for each of {count} training images, got "
                f"{indices.min()}..{indices.max()} at client {client}"
            )
        return np.sort(indices).astype(np.int64)


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
