"""What clients hold: indices of training images, cut into those to train on and those to validate on."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mosaic.errors import MosaicError


class Holding(NamedTuple):
    """One client's images.

    Attributes:
        train: sorted indices to train on.
        validation: sorted indices to validate on.
    """

    train: np.ndarray
    validation: np.ndarray


def class_counts(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Count images per class, shape ``(C,)``; class 0 and absent classes included.

    >>> class_counts(np.array([2, 0, 2]), 4)
    array([1, 0, 2, 0])
    """
    return np.bincount(labels, minlength=num_classes)


def hold_out(labels: np.ndarray, indices: np.ndarray, share: float, seed: tuple[int, int]) -> Holding:
    """Cut a client's validation images off its own, class by class.

    A class of n images gives ``floor(share * n)`` plus one with the probability of the rest, never its last image.

    Args:
        labels: classes of all training images.
        indices: the client's images.
        share: of the images to hold out, in ``[0, 1)``.
        seed: of the choice: the partition's seed and the client.
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
    """Put together what all clients train on, and what all validate on.

    >>> gather([Holding(np.array([0, 3]), np.array([4])), Holding(np.array([1]), np.array([2]))])
    Holding(train=array([0, 1, 3]), validation=array([2, 4]))
    """
    return Holding(*(np.sort(np.concatenate(parts)) for parts in zip(*holdings, strict=True)))


def check_holdings(holdings: Sequence[Holding], num_images: int, origin: str) -> None:
    """Check that every client can train, and that no image has two owners or uses.

    Args:
        holdings: of all clients.
        num_images: training images of the data set.
        origin: the key, file or rule that they come from, for the error.

    Raises:
        MosaicError: an index is no training image, is dealt twice, or a client has no image to train on.
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
            f"{origin}: expected every image at one client and in one of its parts, got image {twice[0]} "
            f"{times[twice[0]]} times ({len(twice)} such images): correct it, or choose another data.partition"
        )
    empty = [client for client, holding in enumerate(holdings) if len(holding.train) == 0]
    if empty:
        raise MosaicError(
            f"{origin}: expected an image to train on at every client, got none at client {empty[0]} "
            f"({len(empty)} of {len(holdings)} clients are empty): lower the number of clients, or choose a rule that "
            "leaves nobody empty, such as mosaic.data.DirichletPartition with min_images of 1 or more"
        )
