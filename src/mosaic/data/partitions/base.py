"""The interface of all partitions."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np

from mosaic.data.holdings import Holding, hold_out
from mosaic.errors import MosaicError, require_count

log = logging.getLogger(__name__)

Groups = Mapping[str, np.ndarray]
"""Other values per image by name, such as its domain or writer, each of shape ``(n,)``."""


class Partition(ABC):
    """A rule that deals training images out to clients.

    Args:
        num_clients: N, at least 1; ``None`` if the data determine it.
    """

    num_clients: int | None

    def __init__(self, num_clients: int | None) -> None:
        if num_clients is not None:
            require_count("data.partition", num_clients=num_clients)
        self.num_clients = None if num_clients is None else int(num_clients)

    @property
    def origin(self) -> str:
        """Key and class, for errors."""
        return f"data.partition ({type(self).__name__})"

    @abstractmethod
    def split(self, labels: np.ndarray, seed: int, groups: Groups) -> list[np.ndarray]:
        """Return the image indices of every client.

        Args:
            labels: integer classes of the training images, shape ``(n,)``.
            seed: seed of the draw; the same seed gives the same split on every machine.
            groups: other values per image; most rules ignore them.

        Returns:
            N disjoint index arrays; a rule may leave images out, which is logged.

        Raises:
            MosaicError: these labels cannot be split in this way.
        """

    def deal(self, labels: np.ndarray, seed: int, groups: Groups, validation_share: float) -> list[Holding]:
        """Split, then hold out ``validation_share`` of each client's images, class by class; see :meth:`split`."""
        parts = self._checked(self.split(labels, seed, groups), len(labels))
        return [hold_out(labels, part, validation_share, (seed, client)) for client, part in enumerate(parts)]

    def _checked(self, parts: object, count: int) -> list[np.ndarray]:
        """Return the parts as sorted arrays, and log how many images no client holds."""
        if not isinstance(parts, Sequence) or isinstance(parts, str):
            raise MosaicError(
                f"{self.origin}: expected a list of index arrays from split(), got {type(parts).__name__}"
            )
        if self.num_clients is not None and len(parts) != self.num_clients:
            raise MosaicError(f"{self.origin}: expected {self.num_clients} parts from split(), got {len(parts)}")
        if not parts:
            raise MosaicError(f"{self.origin}: expected at least one part from split(), got none")
        arrays = [self._indices(part, client, count) for client, part in enumerate(parts)]
        if left_out := count - len(np.unique(np.concatenate(arrays))):
            log.warning("%s dealt %d of %d images to nobody", self.origin, left_out, count)
        return arrays

    def _indices(self, part: object, client: int, count: int) -> np.ndarray:
        indices = whole_numbers(part)
        if indices is None:
            raise MosaicError(
                f"{self.origin}: expected the indices of client {client} as whole numbers of shape (n,), got "
                f"{' '.join(repr(part).split())[:80]}"
            )
        if len(indices) and not 0 <= indices[0] <= indices[-1] < count:
            raise MosaicError(
                f"{self.origin}: expected indices in 0..{count - 1}, got {indices[0]}..{indices[-1]} at client {client}"
            )
        if (twice := indices[1:][indices[1:] == indices[:-1]]).size:
            raise MosaicError(f"{self.origin}: expected every image once, got {twice[0]} twice at client {client}")
        return indices


def whole_numbers(part: object) -> np.ndarray | None:
    """Return a list of whole numbers as a sorted int64 array, and ``None`` for anything else."""
    try:
        numbers = np.asarray(part)
    except ValueError:  # rows of different lengths
        return None
    if numbers.shape != (0,) and (numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer)):
        return None
    return np.sort(numbers).astype(np.int64)
