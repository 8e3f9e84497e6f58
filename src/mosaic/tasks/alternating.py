"""How updates of a generator and a student take turns."""

from typing import NamedTuple

from mosaic.batches import part_of


class UpdateCounts(NamedTuple):
    """The numbers of updates in one block: first the generator's, then the student's."""

    generator_updates: int
    student_updates: int


def take_turns(generator_updates: int, student_updates: int, blocks: int) -> list[UpdateCounts]:
    """Return blocks of updates of a generator and a student in turn, as even as whole numbers allow.

    >>> [tuple(block) for block in take_turns(generator_updates=7, student_updates=2, blocks=3)]
    [(2, 0), (2, 1), (3, 1)]
    """
    totals = generator_updates, student_updates
    return [UpdateCounts(*(part_of(total, block, blocks) for total in totals)) for block in range(1, blocks + 1)]
