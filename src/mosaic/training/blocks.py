"""Take many optimiser steps in one training step: a Trainer spends up to 2 ms between training steps."""

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, Protocol

BLOCK = 50
"""Optimiser steps in one training step; more would gain little."""


class SizedBatches(Protocol):
    """Batches whose number is known before they are drawn."""

    def __len__(self) -> int:
        """Return the number of batches."""

    def __iter__(self) -> Iterator[Any]:
        """Draw the batches."""


class Blocks:
    """Groups of batches, each of which a Trainer takes for one batch; a batch is drawn only when it is needed.

    Args:
        batches: must have a length; otherwise a Trainer would fetch the next group before it uses this one.
        size: batches in a group; the last group may have fewer.

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
