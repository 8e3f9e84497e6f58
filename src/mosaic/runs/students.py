"""Count the distilled models of a run, and those that did not replace the model before them."""

from collections.abc import Sequence
from typing import NamedTuple

from mosaic.runs.rounds import Round


class Students(NamedTuple):
    """Distilled models of one run, whatever the method."""

    offered: int
    accepted: int

    @property
    def refused(self) -> int:
        """Those that did not replace the model before them."""
        return self.offered - self.accepted

    def __str__(self) -> str:
        """Say how many were refused.

        >>> str(Students(1, 0)), str(Students(13, 10)), str(Students(13, 12))
        ('the student was refused', '3 of 13 students were refused', '1 of 13 students was refused')
        """
        them = "the student" if self.offered == 1 else f"{self.refused} of {self.offered} students"
        return f"{them} {'was' if self.refused == 1 else 'were'} refused"


def students_of(rounds: Sequence[Round]) -> Students:
    """Return a run's students from its rounds.

    >>> students_of([{"student_accepted": 1.0}, {"student_accepted": None}, {"student_accepted": 0.0}])
    Students(offered=2, accepted=1)
    """
    verdicts = [verdict for row in rounds if (verdict := row.get("student_accepted")) is not None]
    return Students(len(verdicts), sum(verdict != 0 for verdict in verdicts))
