"""Outcomes to one table: means over seeds, what each row stands for, and whether a difference could be luck."""

import statistics
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from mosaic.comparison.budget import Budget
from mosaic.comparison.outcome import Outcome
from mosaic.comparison.runner import Failure
from mosaic.report.students import Students

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


def comparison_table(
    results: Sequence[Outcome | Failure], budget: Budget | None = None, own_budget: Collection[str] = ()
) -> Table:
    """Return one row for each algorithm, in the order in which they first appear.

    Accuracies are shares of the test split in per cent, except those of the worst client, which are of its own
    validation images. The test is a paired, two-sided t-test over seeds against the first row, uncorrected for the
    number of rows.

    Args:
        results: of all runs.
        budget: what every row is held to that distils, if anything.
        own_budget: rows that are not.
    """
    names = list(dict.fromkeys(result.algorithm for result in results))
    of = {name: [r for r in results if isinstance(r, Outcome) and r.algorithm == name] for name in names}
    failed = {name: [r for r in results if isinstance(r, Failure) and r.algorithm == name] for name in names}
    columns = _columns(of[names[0]], any(outcome.own is not None for found in of.values() for outcome in found))
    rows = []
    for name in names:
        said = _remarks(of[name], failed[name], of[names[0]], None if name in own_budget else budget)
        rows.append(Row(name, tuple(column.cell(of[name]) for column in columns), "; ".join(said)))
    return Table(("algorithm", *(column.name for column in columns)), tuple(rows))


def _columns(reference: Sequence[Outcome], some_own: bool) -> list[_Column]:
    own = [_Column("clients' own models", lambda found: _percent([o.own for o in found]))] if some_own else []
    return [
        _Column("seeds", lambda found: str(len(found)) if found else DASH),
        _Column("test accuracy", lambda found: _percent([o.last for o in found])),
        _Column("validated best", lambda found: _percent([o.chosen for o in found])),
        *own,
        _Column("worst client", lambda found: _percent([None if o.last is None else o.worst_client for o in found])),
        _Column("p", lambda found: _significance(reference, found)),
        _Column(FIRST_COST, lambda found: _mean([o.summary["bytes_up"] / _MEBIBYTE for o in found], 1)),
        _Column("MiB down", lambda found: _mean([o.summary["bytes_down"] / _MEBIBYTE for o in found], 1)),
        _Column("seconds", lambda found: _mean([o.summary["seconds"] for o in found], 0)),
        _Column("local steps", lambda found: _mean([o.updates("local") for o in found], 0)),
        _Column("student updates", lambda found: _mean([o.updates("student") for o in found], 0)),
        _Column("generator updates", lambda found: _mean([o.updates("generator") for o in found], 0)),
        _Column("discriminator updates", lambda found: _mean([o.updates("discriminator") for o in found], 0)),
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


def _remarks(
    found: Sequence[Outcome], failed: Sequence[Failure], reference: Sequence[Outcome], budget: Budget | None
) -> list[str]:
    """Say what was chosen, what failed and why, what clients refused, and what would make it unfair."""
    unfair = (*_other_local_steps(found, reference), *_other_budget(found, budget))
    return [*_chosen(found), *_failures(failed), *_refusals(found), *unfair]


def _chosen(found: Sequence[Outcome]) -> list[str]:
    settings = dict.fromkeys(setting for outcome in found for setting in outcome.tuned)
    parted = [setting.partition("=") for setting in settings]
    return ["chose " + ", ".join(f"{key.rpartition('.')[2]} {value}" for key, _, value in parted)] if parted else []


def _failures(failed: Sequence[Failure]) -> list[str]:
    by_reason: dict[str, list[int]] = {}
    for failure in failed:
        by_reason.setdefault(failure.reason, []).append(failure.seed)
    return [f"failed on seed {_listed(seeds)}: {reason}" for reason, seeds in by_reason.items()]


def _refusals(found: Sequence[Outcome]) -> list[str]:
    by_students: dict[Students, list[int]] = {}
    for outcome in found:
        if outcome.students.refused:
            by_students.setdefault(outcome.students, []).append(outcome.seed)
    return [f"the clients refused {students} on seed {_listed(seeds)}" for students, seeds in by_students.items()]


def _other_local_steps(found: Sequence[Outcome], reference: Sequence[Outcome]) -> list[str]:
    steps = {outcome.seed: outcome.updates("local") for outcome in reference}
    differs = any(outcome.updates("local") != steps.get(outcome.seed, outcome.updates("local")) for outcome in found)
    return ["other local steps than the first row"] if differs else []


def _other_budget(found: Sequence[Outcome], budget: Budget | None) -> list[str]:
    """Say what runs that distil have spent, where that is not the budget."""
    if budget is None:
        return []
    allowed = {"student": budget.student_updates, "generator": budget.generator_updates}
    told = []
    for network, due in allowed.items():
        by_updates: dict[int, list[int]] = {}
        for outcome in found:
            if outcome.distils and outcome.updates(network) != due:
                by_updates.setdefault(outcome.updates(network), []).append(outcome.seed)
        for updates, seeds in by_updates.items():
            told.append(f"{updates:,} {network} updates on seed {_listed(seeds)}, where the budget is {due:,}")
    return told


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
