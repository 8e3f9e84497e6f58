"""Outcomes to one table: means over seeds, what each row stands for, and whether a difference could be luck."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mosaic.comparison.outcome import Outcome
from mosaic.comparison.runner import Failure

FEWEST_FOR_A_TEST = 5
"""Seeds below which a paired test says nothing."""
DASH = "-"
FIRST_COST = "MiB up"
"""The column from which on the table tells what a run takes, and no longer what it reaches."""
_MEBIBYTE = 2**20


@dataclass(frozen=True)
class Row:
    """One algorithm.

    Attributes:
        algorithm: what it is called.
        cells: one text for each column but the first.
        note: what the figures do not say; empty where there is nothing.
    """

    algorithm: str
    cells: tuple[str, ...]
    note: str


@dataclass(frozen=True)
class Table:
    """A comparison.

    Attributes:
        columns: names, the algorithm's first.
        rows: one for each algorithm, in the order asked for.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def parted(self) -> tuple["Table", "Table"]:
        """Return what was reached and what it took, as two tables that fit a page."""
        cost = self.columns.index(FIRST_COST)
        reached, took = (
            Table(
                (self.columns[0], *self.columns[start:end]),
                tuple(Row(row.algorithm, row.cells[start - 1 : end and end - 1], row.note) for row in self.rows),
            )
            for start, end in ((1, cost), (cost, None))
        )
        return reached, took

    @property
    def notes(self) -> list[str]:
        """What the figures do not say, a line each."""
        return [f"{row.algorithm}: {row.note}" for row in self.rows if row.note]


@dataclass(frozen=True)
class _Column:
    name: str
    cell: Callable[[Sequence[Outcome]], str]


def comparison_table(results: Sequence[Outcome | Failure]) -> Table:
    """Return one row for each algorithm, in the order in which they first appear.

    Accuracies are shares of the test split in per cent, except those of the worst client, which are of its own
    validation images. The test is a paired, two-sided t-test over seeds against the first row, uncorrected for the
    number of rows.
    """
    names = list(dict.fromkeys(result.algorithm for result in results))
    of = {name: [r for r in results if isinstance(r, Outcome) and r.algorithm == name] for name in names}
    failed = {name: [r for r in results if isinstance(r, Failure) and r.algorithm == name] for name in names}
    columns = _columns(of[names[0]], any(outcome.own is not None for found in of.values() for outcome in found))
    rows = (
        Row(name, tuple(c.cell(of[name]) for c in columns), _note(of[name], failed[name], of[names[0]]))
        for name in names
    )
    return Table(("algorithm", *(column.name for column in columns)), tuple(rows))


def _columns(reference: Sequence[Outcome], some_own: bool) -> list[_Column]:
    own = [_Column("clients' own models", lambda found: _percent([o.own for o in found]))] if some_own else []
    return [
        _Column("seeds", lambda found: str(len(found)) if found else DASH),
        _Column("test accuracy", lambda found: _percent([o.last for o in found])),
        _Column("validated best", lambda found: _percent([o.chosen for o in found])),
        *own,
        _Column("worst client", lambda found: _percent([o.worst_client for o in found])),
        _Column("p", lambda found: _significance(reference, found)),
        _Column(FIRST_COST, lambda found: _mean([o.summary["bytes_up"] / _MEBIBYTE for o in found], 1)),
        _Column("MiB down", lambda found: _mean([o.summary["bytes_down"] / _MEBIBYTE for o in found], 1)),
        _Column("seconds", lambda found: _mean([o.summary["seconds"] for o in found], 0)),
        _Column("local steps", lambda found: _mean([o.updates("local") for o in found], 0)),
        _Column("student updates", lambda found: _mean([o.updates("student") for o in found], 0)),
        _Column("generator updates", lambda found: _mean([o.updates("generator") for o in found], 0)),
    ]


def _percent(shares: Sequence[float | None]) -> str:
    """Return mean and standard deviation over seeds in per cent, or a dash where a run has no such figure."""
    known = [100 * share for share in shares if share is not None]
    if not known or len(known) < len(shares):
        return DASH
    spread = f" ± {statistics.stdev(known):.2f}" if len(known) > 1 else ""
    return f"{statistics.fmean(known):.2f}{spread}"


def _mean(values: Sequence[float], digits: int) -> str:
    return f"{statistics.fmean(values):,.{digits}f}" if values else DASH


def _significance(reference: Sequence[Outcome], found: Sequence[Outcome]) -> str:
    """Return the p-value of the paired test against the first row, or a dash where there is nothing to test."""
    ours, theirs = ({o.seed: o.last for o in outcomes if o.last is not None} for outcomes in (found, reference))
    pairs = [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]
    if len(pairs) < FEWEST_FOR_A_TEST or all(a == b for a, b in pairs):
        return DASH
    return f"{paired_p_value(*zip(*pairs, strict=True)):.3g}"


def paired_p_value(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the two-sided p-value of a paired t-test.

    >>> round(paired_p_value([1.0, 2.0, 3.0, 4.0], [0.0, 2.0, 2.0, 3.0]), 4)
    0.0577
    """
    from scipy.stats import ttest_rel  # type: ignore[import-untyped]

    return float(ttest_rel(first, second).pvalue)


def _note(found: Sequence[Outcome], failed: Sequence[Failure], reference: Sequence[Outcome]) -> str:
    """Say which seeds failed and why, where clients refused what was distilled, and what would make it unfair."""
    reasons = dict.fromkeys(failure.reason for failure in failed)
    said = [f"failed on seed {_seeds(failed, reason)}: {reason}" for reason in reasons]
    refused = [o.seed for o in found if "student" in o.summary["stages"] and not o.summary["distilled"]]
    if refused:
        said.append(f"the clients refused the student on seed {', '.join(map(str, refused))}")
    steps = {outcome.seed: outcome.updates("local") for outcome in reference}
    if any(outcome.updates("local") != steps.get(outcome.seed, outcome.updates("local")) for outcome in found):
        said.append("other local steps than the first row")
    return "; ".join(said)


def _seeds(failed: Sequence[Failure], reason: str) -> str:
    return ", ".join(str(failure.seed) for failure in failed if failure.reason == reason)
