"""Count the distilled models that clients were offered, and those that they refused."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mosaic.report.rounds import Round


class Students(NamedTuple):
    """Distilled models of one run, whatever the method."""

    offered: int
    refused: int

    def __str__(self) -> str:
        """Name the refused ones, as the subject of a sentence.

        >>> str(Students(1, 1)), str(Students(13, 3))
        ('the student', '3 of 13 students')
        """
        return "the student" if self.offered == 1 else f"{self.refused} of {self.offered} students"


def count_students(rounds: Sequence[Round]) -> dict[str, int]:
    """Return how many students were offered and accepted; zeros for a run that was begun before rounds told of it.

    >>> count_students([{"student_accepted": 1.0}, {"student_accepted": None}, {"student_accepted": 0.0}])
    {'offered': 2, 'accepted': 1}
    """
    verdicts = [row.get("student_accepted") for row in rounds]
    return {"offered": sum(verdict is not None for verdict in verdicts), "accepted": int(sum(v or 0 for v in verdicts))}


def students_of(summary: Mapping[str, Any], counts: Mapping[str, int]) -> Students:
    """Return a run's students from its counts, or else from its summary, which shows whether the last was refused."""
    if counts.get("offered"):
        return Students(counts["offered"], counts["offered"] - counts["accepted"])
    refused = "student" in summary.get("stages", {}) and not summary.get("distilled")
    return Students(int(refused), int(refused))
