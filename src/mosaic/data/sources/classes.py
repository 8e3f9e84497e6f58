"""Make the splits of a data set agree on their classes, and number labels ``0..C-1``."""

import logging

import numpy as np

from mosaic.data.checks import check_label_range, check_names
from mosaic.errors import MosaicError, abridged

log = logging.getLogger(__name__)

MOST_CLASSES = 50_000
"""More distinct labels than this are taken for identifiers, not classes; ImageNet-21k has 21,841 classes."""

Names = tuple[str, ...] | None


def agreed(labels: np.ndarray, names: Names, reference: Names, origin: str) -> np.ndarray:
    """Renumber labels from positions in ``names`` to positions in ``reference``; without either list, keep them.

    Raises:
        MosaicError: a name occurs twice, a label has no name, or its name is not in the reference.

    >>> agreed(np.array([0, 1]), ("dog", "cat"), ("cat", "dog"), "test.parquet")
    array([1, 0])
    """
    if names is None or reference is None or names == reference:
        return labels
    for given in (names, reference):
        check_names(given, origin)
    places = {name: place for place, name in enumerate(reference)}
    check_label_range(labels, len(names), "stored", origin, fewest=1)
    unknown = [names[label] for label in np.unique(labels).tolist() if names[label] not in places]
    if unknown:
        raise MosaicError(
            f"{origin}: expected only the classes {abridged(reference)}, got {abridged(unknown)}: rename them, or "
            "leave these images out"
        )
    log.info("%s: labels are renumbered by the names of their classes", origin)
    renumbered = np.array([places.get(name, -1) for name in names], dtype=np.int64)
    return np.asarray(renumbered[labels])


def numbered(train: np.ndarray, test: np.ndarray, origin: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Number labels without names as ``0..C-1`` in the order of their values, and name each class by its value.

    Returns:
        Training labels, test labels and names.

    Raises:
        MosaicError: a label is negative, there are too many, or one occurs among the test images only.

    >>> numbered(np.array([7, 3, 7]), np.array([3]), "a.npz")
    (array([1, 0, 1]), array([0]), ('3', '7'))
    """
    values = np.unique(train)
    if values[0] < 0:
        raise MosaicError(
            f"{origin}: expected labels of 0 and above, got {values[0]}: "
            "number the classes from 0, or leave images without a label out"
        )
    if len(values) > MOST_CLASSES:
        raise MosaicError(
            f"{origin}: expected at most {MOST_CLASSES} classes, got {len(values)} different labels for {len(train)} "
            "images, which look like identifiers: name the column or array that holds classes"
        )
    names = tuple(map(str, values.tolist()))
    unknown = np.setdiff1d(test, values)
    if len(unknown):
        raise MosaicError(
            f"{origin}: expected test images of classes that are trained on, got labels {abridged(unknown.tolist())}: "
            "leave these images out, or train on some"
        )
    if values[-1] == len(values) - 1:
        return train, test, names
    table = abridged([f"{value} is class {place}" for place, value in enumerate(values.tolist())])
    log.info("%s: labels are not 0..%d; they are numbered by value: %s", origin, len(values) - 1, table)
    return np.searchsorted(values, train), np.searchsorted(values, test), names
