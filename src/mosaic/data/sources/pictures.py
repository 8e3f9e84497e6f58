"""What a source hands over: one split of pictures as it finds them, before any rule, and their labels."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mosaic.data.images import check_labels
from mosaic.data.sources.files import unreadable
from mosaic.errors import MosaicError

Block = np.ndarray | list[tuple[str, Any]]
"""Some pictures in a row: an array ``(n, H, W[, channels])``, or pairs of a name for errors and a picture."""


@dataclass(frozen=True)
class Pictures:
    """One split.

    Attributes:
        labels: int64, shape ``(N,)``.
        blocks: starts reading; yields N pictures in the order of the labels, some at a time.
        origin: file or folder and its key in the configuration, as errors begin.
        identity: yields what tells these pictures from others without reading them, for the cache.
        advice: what to do where a picture cannot be decoded.
        groups: other values per picture, such as domain or writer, by name, each of shape ``(N,)``.
    """

    labels: np.ndarray
    blocks: Callable[[], Iterable[Block]]
    origin: str
    identity: Callable[[], Iterable[object]]
    advice: str = "fetch the file again"
    groups: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Block]:
        """Read all pictures.

        Raises:
            MosaicError: reading fails, or there are not as many pictures as labels.
        """
        count = 0
        try:
            for block in self.blocks():
                count += len(block)
                yield block
        except MosaicError:
            raise
        except Exception as error:  # zipfile, pyarrow and torchvision each have their own
            raise unreadable(error, self.origin) from error
        if count != len(self):
            raise MosaicError(
                f"{self.origin}: expected {len(self)} pictures, one per label, got {count}: fetch the file again"
            )


def make_pictures(labels: np.ndarray, count: int, **parts: Any) -> Pictures:
    """Check the labels and make :class:`Pictures`.

    Args:
        labels: integers, shape ``(N,)`` or ``(N, 1)``.
        count: number of pictures.
        parts: the other fields of :class:`Pictures`.

    Raises:
        MosaicError: labels are no whole numbers, not one per picture, or there are none.
    """
    return Pictures(check_labels(labels, count, parts["origin"]), **parts)


def joined(first: Pictures, second: Pictures) -> Pictures:
    """Append one split to another; groups that only one of them has are left out."""
    shared = first.groups.keys() & second.groups.keys()
    return replace(
        first,
        labels=np.concatenate([first.labels, second.labels]),
        blocks=lambda: (block for part in (first, second) for block in part),
        identity=lambda: (fact for part in (first, second) for fact in part.identity()),
        groups={key: np.concatenate([first.groups[key], second.groups[key]]) for key in sorted(shared)},
    )


def hold_out_test(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split indices into training and test, class by class.

    A class of n pictures gives ``round(share * n)`` to the test, never its last one.

    Args:
        labels: integers, shape ``(N,)``.
        share: of the pictures to test on, in ``(0, 1)``.
        seed: of the choice; the same on every machine.

    Returns:
        Sorted indices of training and test pictures.

    Raises:
        MosaicError: the share is out of range, or so small that nothing is left to test on.
    """
    if not 0 < share < 1:
        raise MosaicError(f"data.source.init_args.test_share: expected a share in (0, 1), got {share}")
    random = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels):
        mine = random.permutation(np.flatnonzero(labels == label))
        chosen.append(mine[: min(round(share * len(mine)), len(mine) - 1)])
    test = np.sort(np.concatenate(chosen))
    if len(test) == 0:
        raise MosaicError(
            f"data.source.init_args.test_share: {share} of each class leaves no picture to test on: raise it"
        )
    return np.setdiff1d(np.arange(len(labels)), test, assume_unique=True), test
