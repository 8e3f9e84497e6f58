"""How updates of a generator and a student take turns."""

from collections.abc import Iterator
from typing import NamedTuple

from mosaic.batches import part_of


class UpdateCounts(NamedTuple):
    """The numbers of updates in one block: first the generator's, then the student's."""

    generator_updates: int
    student_updates: int


class AlternatingUpdates:
    """Blocks of updates of a generator and a student in turn, as even as whole numbers allow.

    Args:
        generator_updates: total over all blocks.
        student_updates: total over all blocks.
        blocks: number of blocks.

    >>> [tuple(block) for block in AlternatingUpdates(generator_updates=7, student_updates=2, blocks=3)]
    [(2, 0), (2, 1), (3, 1)]
    """

    def __init__(self, generator_updates: int, student_updates: int, blocks: int) -> None:
        self.generator_updates, self.student_updates, self._blocks = generator_updates, student_updates, blocks

    def __len__(self) -> int:
        return self._blocks

    def __iter__(self) -> Iterator[UpdateCounts]:
        for block in range(1, self._blocks + 1):
            parts = (part_of(total, block, self._blocks) for total in (self.generator_updates, self.student_updates))
            yield UpdateCounts(*parts)
