"""One split of pictures as a source finds them, not yet decoded, with their labels."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mosaic.data.checks import check_labels
from mosaic.data.sources.files import readable, unreadable
from mosaic.errors import MosaicError, abridged, is_number, require_at_least_zero, require_whole

log = logging.getLogger(__name__)
Block = np.ndarray | list[tuple[str, Any]]
"""Consecutive pictures: an array ``(n, H, W[, channels])``, or pairs of a name for errors and a picture."""


@dataclass(frozen=True)
class Pictures:
    """One split.

    Attributes:
        labels: int64, shape ``(N,)``.
        blocks: starts reading, and yields N pictures in the order of the labels, block by block.
        origin: file or folder and its key in the configuration; errors begin with it.
        identity: yields facts that identify the pictures without reading them, for the cache.
        advice: what to do if a picture cannot be decoded.
        groups: other values per picture by name, such as domain or writer, each of shape ``(N,)``.
    """

    labels: np.ndarray
    blocks: Callable[[], Iterable[Block]]
    origin: str
    identity: Callable[[], Iterable[object]]
    advice: str = "fetch the file again"
    groups: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def facts(self) -> tuple[object, ...]:
        """Return what identifies the pictures; raise :class:`MosaicError` if a file is missing."""
        return readable(lambda: tuple(self.identity()), self.origin)

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
        except Exception as error:  # zipfile, pyarrow and torchvision raise errors of their own
            raise unreadable(error, self.origin) from error
        if count != len(self):
            raise MosaicError(f"{self.origin}: expected {len(self)} pictures, got {count}: fetch the file again")


def make_pictures(labels: np.ndarray, count: int, **parts: Any) -> Pictures:
    """Make :class:`Pictures` of ``count`` labels and the other fields; see :func:`~mosaic.data.checks.check_labels`."""
    return Pictures(check_labels(labels, count, parts["origin"]), **parts)


def encoded_rows(columns: Iterable[list[Any]]) -> Iterator[Block]:
    """Yield blocks of encoded images from cells of the ``datasets`` Image feature: bytes, or ``{"bytes", "path"}``."""
    row = 0
    for cells in columns:
        yield [(f"row {row + i}", _encoded_image(cell)) for i, cell in enumerate(cells)]
        row += len(cells)


def _encoded_image(cell: Any) -> Any:
    if not isinstance(cell, dict):
        return cell
    data, path = cell.get("bytes"), cell.get("path")
    return Path(path) if data is None and isinstance(path, str) else data


def joined(first: Pictures, second: Pictures) -> Pictures:
    """Append one split to another; groups that only one of them has are left out, and the log says so."""
    shared = first.groups.keys() & second.groups.keys()
    if lost := sorted(first.groups.keys() ^ second.groups.keys()):
        log.warning("%s: groups that only one of the joined parts has are left out: %s", first.origin, abridged(lost))
    return replace(
        first,
        labels=np.concatenate([first.labels, second.labels]),
        blocks=lambda: (block for part in (first, second) for block in part),
        identity=lambda: (fact for part in (first, second) for fact in part.identity()),
        groups={key: np.concatenate([first.groups[key], second.groups[key]]) for key in sorted(shared)},
    )


def hold_out_test(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split pictures into training and test, class by class; the same seed gives the same split on every machine.

    A class of n pictures gives ``round(share * n)`` to the test, but never its last one.

    Returns:
        Sorted indices of training and test pictures.

    Raises:
        MosaicError: the share is not in ``(0, 1)``, or so small that no test picture is left; or the seed is negative.
    """
    require_whole("data.source.init_args", seed=seed)
    require_at_least_zero("data.source.init_args", seed=seed)
    if not is_number(share) or not 0 < share < 1:
        raise MosaicError(f"data.source.init_args.test_share: expected a share in (0, 1), got {share}")
    random = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels):
        mine = random.permutation(np.flatnonzero(labels == label))
        chosen.append(mine[: min(round(share * len(mine)), len(mine) - 1)])
    test = np.sort(np.concatenate(chosen))
    if len(test) == 0:
        raise MosaicError(f"data.source.init_args.test_share: {share} leaves no picture to test on: raise it")
    return np.setdiff1d(np.arange(len(labels)), test, assume_unique=True), test
