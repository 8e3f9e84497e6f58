"""Which class a stored label means: splits that name their classes agree by name, and identifiers become 0..C-1."""

import logging
from collections.abc import Sequence

import numpy as np

from mosaic.errors import MosaicError

log = logging.getLogger(__name__)

MOST_CLASSES = 50_000
"""More distinct labels than this number images, people or articles, but no classes: ImageNet-21k has 21,841."""
_SHOWN = 5

Names = tuple[str, ...] | None


def agreed(labels: np.ndarray, names: Names, reference: Names, origin: str) -> np.ndarray:
    """Renumber labels so that their names stand where the reference has them.

    Args:
        labels: int64, shape ``(N,)``, positions in ``names``.
        names: what the labels are called; ``None`` where nobody says, and the numbers are taken as they are.
        reference: the names in the order that counts; ``None`` where nobody says.
        origin: file and key, for the error.

    Raises:
        MosaicError: a name occurs twice, or a label's name is not in the reference.

    >>> agreed(np.array([0, 1]), ("dog", "cat"), ("cat", "dog"), "test.parquet")
    array([1, 0])
    """
    if names is None or reference is None or names == reference:
        return labels
    for given in (names, reference):
        if len(set(given)) < len(given):
            twice = next(name for name in given if given.count(name) > 1)
            raise MosaicError(
                f"{origin}: expected every class to have a name of its own, since another file lists the classes in "
                f"another order, got {twice!r} twice: rename one of them"
            )
    places = {name: place for place, name in enumerate(reference)}
    _check_range(labels, len(names), origin)
    unknown = [names[label] for label in np.unique(labels).tolist() if names[label] not in places]
    if unknown:
        raise MosaicError(
            f"{origin}: expected only classes that the training file names, got {_list(unknown)}, which it does not: "
            "leave these images out, or name the class there"
        )
    log.info("%s: classes are listed in another order than in the training file; labels are taken by name", origin)
    renumbered = np.array([places.get(name, -1) for name in names], dtype=np.int64)
    return np.asarray(renumbered[labels])


def numbered(train: np.ndarray, test: np.ndarray, origin: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Name the classes of labels that nobody names.

    Labels ``0..C-1``, each of which occurs among the training images, stay as they are. Others are numbered in their
    order and keep their value as the name.

    Args:
        train: labels of training images, int64, shape ``(N,)``.
        test: labels of test images.
        origin: file and key, for log and error.

    Returns:
        Both as ``0..C-1``, and the names.

    Raises:
        MosaicError: labels are negative, are too many for classes, or occur among the test images alone.

    >>> numbered(np.array([7, 3, 7]), np.array([3]), "a.npz")
    (array([1, 0, 1]), array([0]), ('3', '7'))
    """
    values = np.unique(train)
    if values[0] < 0:
        raise MosaicError(
            f"{origin}: expected labels of 0 and above, got {values[0]}, which often marks images without a label: "
            "leave these images out, or number the classes from 0"
        )
    if len(values) > MOST_CLASSES:
        raise MosaicError(
            f"{origin}: expected at most {MOST_CLASSES} classes, got {len(values)} different labels for {len(train)} "
            "images: labels look like identifiers, so name the column or array that holds classes"
        )
    names = tuple(map(str, values.tolist()))
    unknown = np.setdiff1d(test, values)
    if len(unknown):
        raise MosaicError(
            f"{origin}: expected test images of classes that are trained on, got labels {_list(unknown.tolist())}, "
            "which no training image has: leave these images out, or train on some"
        )
    if values[-1] == len(values) - 1:
        return train, test, names
    table = ", ".join(f"{value} is class {place}" for place, value in enumerate(values[:_SHOWN].tolist()))
    log.info("%s: labels are not 0..%d; they are numbered in their order: %s%s", origin, len(values) - 1, table,
             ", ..." if len(values) > _SHOWN else "")  # fmt: skip
    return np.searchsorted(values, train), np.searchsorted(values, test), names


def _check_range(labels: np.ndarray, num_classes: int, origin: str) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise MosaicError(
            f"{origin}: expected labels in 0..{num_classes - 1} ({num_classes} classes are named), got {low}..{high}: "
            "number the classes from 0 and name each of them"
        )


def _list(values: Sequence[object]) -> str:
    return ", ".join(map(str, values[:_SHOWN])) + (", ..." if len(values) > _SHOWN else "")
