"""Count the distilled models that clients were offered, and those that they refused."""

from collections.abc import Sequence
from typing import NamedTuple

from mosaic.runs.rounds import Round


class Students(NamedTuple):
    """Distilled models of one run, whatever the method."""

    offered: int
    accepted: int

    @property
    def refused(self) -> int:
        """Those that clients refused."""
        return self.offered - self.accepted

    def __str__(self) -> str:
        """Name the refused ones, as the subject of a sentence.

        >>> str(Students(1, 0)), str(Students(13, 10))
        ('the student', '3 of 13 students')
        """
        return "the student" if self.offered == 1 else f"{self.refused} of {self.offered} students"


def students_of(rounds: Sequence[Round]) -> Students:
    """Return a run's students from its rounds.

    >>> students_of([{"student_accepted": 1.0}, {"student_accepted": None}, {"student_accepted": 0.0}])
    Students(offered=2, accepted=1)
    """
    verdicts = [verdict for row in rounds if (verdict := row.get("student_accepted")) is not None]
    return Students(len(verdicts), sum(verdict != 0 for verdict in verdicts))
