"""Holdings: the indices of the images that each client trains and validates on."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mosaic.errors import MosaicError


class Holding(NamedTuple):
    """The sorted indices that a client trains and validates on."""

    train: np.ndarray
    validation: np.ndarray


def hold_out(labels: np.ndarray, indices: np.ndarray, share: float, seed: tuple[int, int]) -> Holding:
    """Hold out a share of a client's images to validate on, class by class; the seed is the partition's and the client.

    A class of n images gives ``floor(share * n)``, plus one with the probability of the remainder, but never its last
    image. ``labels`` are those of all training images, ``indices`` the client's images.
    """
    random = np.random.default_rng(seed)
    held: list[np.ndarray] = []
    for label in np.unique(labels[indices]):
        mine = random.permutation(indices[labels[indices] == label])
        wanted = share * len(mine)
        count = int(wanted) + int(random.random() < wanted % 1)
        held.append(mine[: min(count, len(mine) - 1)])
    validation = np.sort(np.concatenate(held)) if held else np.empty(0, dtype=np.int64)
    return Holding(np.setdiff1d(indices, validation, assume_unique=True), validation)


def gather(holdings: Sequence[Holding]) -> Holding:
    """Merge the holdings of all clients into one.

    >>> gather([Holding(np.array([0, 3]), np.array([4])), Holding(np.array([1]), np.array([2]))])
    Holding(train=array([0, 1, 3]), validation=array([2, 4]))
    """
    return Holding(*(np.sort(np.concatenate(parts)) for parts in zip(*holdings, strict=True)))


def check_holdings(holdings: Sequence[Holding], num_images: int, origin: str) -> None:
    """Check that every client has an image to train on, and that no image occurs twice.

    ``origin`` is the key, file or rule of the holdings; errors begin with it.

    Raises:
        MosaicError: an index is out of range, an image occurs twice, or a client has no image to train on.
    """
    dealt = np.concatenate([part for holding in holdings for part in holding])
    if len(dealt) and not 0 <= dealt.min() <= dealt.max() < num_images:
        raise MosaicError(
            f"{origin}: expected indices in 0..{num_images - 1}, one for each of {num_images} training images, "
            f"got {dealt.min()}..{dealt.max()}: use it with the data set that it was made for, or make a new partition"
        )
    times = np.bincount(dealt, minlength=num_images)
    if times.max() > 1:
        twice = np.flatnonzero(times > 1)
        raise MosaicError(
            f"{origin}: expected every image at one client, either to train or to validate on, got image {twice[0]} "
            f"{times[twice[0]]} times ({len(twice)} such images): correct it, or choose another data.partition"
        )
    empty = [client for client, holding in enumerate(holdings) if len(holding.train) == 0]
    if empty:
        raise MosaicError(
            f"{origin}: expected an image to train on at every client, got none at client {empty[0]} "
            f"({len(empty)} of {len(holdings)} clients are empty): lower the number of clients, or use "
            "mosaic.data.DirichletPartition with min_images of 1 or more"
        )
