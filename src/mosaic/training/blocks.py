"""Several optimiser steps in one training step: a Trainer spends up to two milliseconds between its steps."""

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, Protocol

BLOCK = 50
"""Optimiser steps in one training step; more would bring little."""


class SizedBatches(Protocol):
    """Batches whose number is known before they are drawn."""

    def __len__(self) -> int:
        """Return how many there are."""

    def __iter__(self) -> Iterator[Any]:
        """Draw them."""


class Blocks:
    """Batches in groups; a Trainer takes each group for one batch, and its batches are drawn when their turn comes.

    Args:
        batches: with a length; from what has none, a Trainer would fetch the next group before it uses this one.
        size: batches in a group; the last one may have fewer.

    >>> [list(block) for block in Blocks(range(5), 2)]
    [[0, 1], [2, 3], [4]]
    """

    def __init__(self, batches: SizedBatches, size: int) -> None:
        self._batches, self._size = batches, size

    def __len__(self) -> int:
        return -(-len(self._batches) // self._size)

    def __iter__(self) -> Iterator[Iterator[Any]]:
        rest = iter(self._batches)
        for first in rest:
            yield chain([first], islice(rest, self._size - 1))
