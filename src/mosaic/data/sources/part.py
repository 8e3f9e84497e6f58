"""A part of another source, with the same shares of classes."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from mosaic.data.images import Images, ImageSet, checked, warn_of_rare_classes
from mosaic.data.sources.base import Source
from mosaic.errors import MosaicError, require_at_least_zero

KEY = "data.source.init_args"


class PartSource(Source):
    """Some of the images of another source, drawn at random so that every class keeps its share.

    Shares are kept to within one image, images stay in their order, and their groups stay with them. Training and test
    images are drawn apart: how many are kept of the one does not change which are kept of the other.

    Args:
        source: where the images come from; it is loaded whole, and let go once the part is copied.
        train: training images to keep; all when not given.
        test: test images to keep; all when not given.
        seed: of the draw, at least 0; the same on every machine.
    """

    def __init__(self, source: Source, train: int | None = None, test: int | None = None, seed: int = 0) -> None:
        require_at_least_zero(KEY, seed=seed)
        self.source, self.train, self.test, self.seed = source, train, test, seed

    def load(self) -> ImageSet:
        """Load the whole and copy the part out of it.

        Raises:
            MosaicError: the source cannot be loaded or has fewer images than asked for, or a class would keep none.
        """
        whole = self._load_whole()
        train, test, names = whole.train, whole.test, whole.class_names
        if self.train is not None:
            train = _part(train, self.train, names, (self.seed, 0), f"{KEY}.train")
            warn_of_rare_classes(train.labels, names, f"{KEY}.train")
        if self.test is not None:
            test = _part(test, self.test, names, (self.seed, 1), f"{KEY}.test")
        return replace(whole, train=train, test=test)

    def _load_whole(self) -> ImageSet:
        try:
            return checked(self.source.load(), f"{KEY}.source ({type(self.source).__name__})")
        except MosaicError as error:  # a source names its arguments as if it stood at data.source
            raise MosaicError(str(error).replace(KEY, f"{KEY}.source.init_args")) from error


def proportional_sizes(counts: np.ndarray, total: int) -> np.ndarray:
    """Share a total out in proportion, in whole numbers, by largest remainder; ties go to the lower class.

    Args:
        counts: images of each class, shape ``(C,)``, not all 0.
        total: images to keep, ``0..sum(counts)``.

    Returns:
        Integers that sum to ``total``, each less than 1 away from ``total * counts / sum(counts)``, shape ``(C,)``.

    >>> proportional_sizes(np.array([5, 3, 2]), 4)
    array([2, 1, 1])
    """
    sizes, remainders = np.divmod(counts * total, counts.sum())
    largest = np.argsort(-remainders, kind="stable")[: total - sizes.sum()]
    sizes[largest] += 1
    return np.asarray(sizes)


def draw_by_class(labels: np.ndarray, sizes: np.ndarray, seed: int | Sequence[int]) -> np.ndarray:
    """Draw a given number of images of each class.

    Args:
        labels: integers, shape ``(N,)``, values ``0..C-1``.
        sizes: images to draw of each class, at most as many as there are, shape ``(C,)``.
        seed: of the draw; the same on every machine.

    Returns:
        Sorted indices, shape ``(sum(sizes),)``.

    >>> draw_by_class(np.array([0, 1, 0, 1, 1]), np.array([2, 1]), seed=0)
    array([0, 2, 4])
    """
    random = np.random.default_rng(seed)
    drawn = [random.permutation(np.flatnonzero(labels == label))[:size] for label, size in enumerate(sizes)]
    return np.sort(np.concatenate(drawn))


def _part(images: Images, total: int, names: Sequence[str], seed: tuple[int, int], key: str) -> Images:
    labels = images.labels.numpy()
    counts = np.bincount(labels, minlength=len(names))
    if total > len(labels):
        raise MosaicError(
            f"{key}: expected at most {len(labels)}, all that the source has, got {total}: "
            "lower it, or leave it out to keep all"
        )
    sizes = proportional_sizes(counts, total)
    _check_every_class(counts, sizes, total, names, key)
    return _copied(images, draw_by_class(labels, sizes, seed))


def _check_every_class(counts: np.ndarray, sizes: np.ndarray, total: int, names: Sequence[str], key: str) -> None:
    lost = np.flatnonzero((counts > 0) & (sizes < 1))
    if len(lost) == 0:
        return
    enough = -(-counts.sum() // counts[counts > 0].min())  # then the share of the rarest class is 1 or more
    raise MosaicError(
        f"{key}: expected at least one image of each of the {np.count_nonzero(counts)} classes that occur, got {total} "
        f"images in all and none of class {names[lost[0]]}, which has {counts[lost[0]]} of {counts.sum()}: "
        f"raise it, {enough} are enough for every class, or leave it out to keep all"
    )


def _copied(images: Images, indices: np.ndarray) -> Images:
    """Copy some images, so that no view keeps all of them in memory."""
    chosen = torch.from_numpy(indices)
    groups = {key: np.asarray(values)[indices] for key, values in images.groups.items()}
    return Images(images.pixels[chosen], images.labels[chosen], groups)
