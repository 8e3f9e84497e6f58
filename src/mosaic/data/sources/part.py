"""A part of another source with the same class shares."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from mosaic.data.checks import checked
from mosaic.data.images import Images, ImageSet
from mosaic.data.sources.base import Source
from mosaic.errors import MosaicError, require_at_least_zero, require_kinds, require_whole

KEY = "data.source.init_args"


class PartSource(Source):
    """Draw some images of another source at random, so that every class keeps its share to within one image.

    Images keep their order and their groups. Training and test images are drawn independently: the number of the one
    does not change the choice of the other.

    Args:
        source: source of the images; it is loaded whole, and released once the part is copied.
        train: training images to keep; all by default.
        test: test images to keep; all by default.
        seed: seed of the draw, at least 0; the same seed gives the same images on every machine.
    """

    def __init__(self, source: Source, train: int | None = None, test: int | None = None, seed: int = 0) -> None:
        require_kinds(KEY, source=(source, Source))
        given = {"train": train, "test": test, "seed": seed}
        require_whole(KEY, **{key: value for key, value in given.items() if value is not None})
        require_at_least_zero(KEY, seed=seed)
        self.source, self.train, self.test, self.seed = source, train, test, seed

    def load(self) -> ImageSet:
        """Load the source and copy the part.

        Raises:
            MosaicError: the source cannot be loaded or has too few images, or a class would keep none.
        """
        try:
            whole = checked(self.source.load(), f"{KEY}.source ({type(self.source).__name__})")
        except MosaicError as error:  # a source names its arguments as if it stood at data.source
            raise MosaicError(str(error).replace(KEY, f"{KEY}.source.init_args")) from error
        train, test, names = whole.train, whole.test, whole.class_names
        if self.train is not None:
            train = _part(train, self.train, names, (self.seed, 0), f"{KEY}.train")
        if self.test is not None:
            test = _part(test, self.test, names, (self.seed, 1), f"{KEY}.test")
        return replace(whole, train=train, test=test)


def proportional_sizes(counts: np.ndarray, total: int) -> np.ndarray:
    """Divide a total among classes in proportion to ``counts`` by largest remainder; ties go to the lower class.

    Returns:
        Integers that sum to ``total``, each less than 1 away from ``total * counts / sum(counts)``, shape ``(C,)``.

    >>> proportional_sizes(np.array([5, 3, 2]), 4)
    array([2, 1, 1])
    """
    sizes, remainders = np.divmod(counts * total, counts.sum())
    largest = np.argsort(-remainders, kind="stable")[: total - sizes.sum()]
    sizes[largest] += 1
    return np.asarray(sizes)


def _part(images: Images, total: int, names: Sequence[str], seed: tuple[int, int], key: str) -> Images:
    labels = images.labels.numpy()
    counts = np.bincount(labels, minlength=len(names))
    if total > len(labels):
        raise MosaicError(
            f"{key}: expected at most {len(labels)}, got {total}: lower it, or leave it out to keep all images"
        )
    sizes = proportional_sizes(counts, total)
    lost = np.flatnonzero((counts > 0) & (sizes < 1))
    if len(lost):
        enough = -(-counts.sum() // counts[counts > 0].min())  # then the share of the rarest class is 1 or more
        raise MosaicError(
            f"{key}: expected at least one image of each of the {np.count_nonzero(counts)} classes that occur, got "
            f"{total} images in all and none of class {names[lost[0]]}, which has {counts[lost[0]]} of "
            f"{counts.sum()}: raise it, {enough} are enough for every class, or leave it out to keep all"
        )
    random = np.random.default_rng(seed)
    drawn = [random.permutation(np.flatnonzero(labels == label))[:size] for label, size in enumerate(sizes)]
    return images.at(torch.from_numpy(np.sort(np.concatenate(drawn))))  # a copy, so that no view keeps all in memory
