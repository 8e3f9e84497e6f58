"""Make one table of outcomes: means over seeds, a paired test, and remarks."""

import statistics
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TypeVar

from mosaic.comparison.budget import DistillationBudget
from mosaic.comparison.outcome import Failure, Outcome

T = TypeVar("T")
FEWEST_FOR_A_TEST = 5
"""Seeds below which a paired test says nothing."""
FIRST_COST = "MiB up"
"""The first column of what a run costs; those before it are of what it reaches."""
_MEBIBYTE = 2**20


@dataclass(frozen=True)
class Figure:
    """One cell.

    Attributes:
        value: often a mean over seeds; none where it is not known.
        spread: standard deviation over seeds, if it is known of several.
        form: how people are shown both.
    """

    value: float | None = None
    spread: float | None = None
    form: str = ".2f"

    def __str__(self) -> str:
        """Return it as people read it.

        >>> str(Figure(85.0, 7.071)), str(Figure())
        ('85.00 ± 7.07', '-')
        """
        if self.value is None:
            return "-"
        return " ± ".join(f"{each:{self.form}}" for each in (self.value, self.spread) if each is not None)


Cell = Callable[[Sequence[Outcome]], Figure]


@dataclass(frozen=True)
class Row:
    """One algorithm.

    Attributes:
        algorithm: its name, as it was asked for.
        title: the same for people, short.
        cells: of all columns but the first.
        note: which may be empty.
    """

    algorithm: str
    title: str
    cells: tuple[Figure, ...]
    note: str


@dataclass(frozen=True)
class Table:
    """A comparison: names of the columns, the algorithm's first, and a row for each algorithm."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def parted(self) -> tuple["Table", "Table"]:
        """Return results and costs as two tables that fit a page."""
        cost = self.columns.index(FIRST_COST)
        results, costs = (
            Table(
                (self.columns[0], *self.columns[start:end]),
                tuple(replace(row, cells=row.cells[start - 1 : end and end - 1]) for row in self.rows),
            )
            for start, end in ((1, cost), (cost, None))
        )
        return results, costs

    @property
    def notes(self) -> list[str]:
        """The rows' notes, a line each."""
        return [f"{row.title}: {row.note}" for row in self.rows if row.note]


def comparison_table(
    results: Sequence[Outcome | Failure], budget: DistillationBudget | None = None, own_budget: Collection[str] = ()
) -> Table:
    """Return one row for each algorithm, in the order in which they first appear.

    Accuracies are shares of the test split in per cent, except those of the worst client, which are of its own
    validation images. The test is a paired, two-sided t-test over seeds against the first row, uncorrected for the
    number of rows. The budget applies to every row that distils, unless it has one of its own.
    """
    names = list(dict.fromkeys(result.algorithm for result in results))
    called = titles(names)
    of = {name: [r for r in results if isinstance(r, Outcome) and r.algorithm == name] for name in names}
    failed = {name: [r for r in results if isinstance(r, Failure) and r.algorithm == name] for name in names}
    reference = of[names[0]]
    columns = _columns(reference, any(outcome.own is not None for found in of.values() for outcome in found))
    rows = []
    for name in names:
        remarks = [
            *([name] if called[name] != name else []),
            *_chosen(of[name]),
            *(f"failed on {seeds}: {reason}" for reason, seeds in _by_seed((f.reason, f) for f in failed[name])),
            *_refusals(of[name]),
            *_other_local_steps(of[name], reference),
            *_other_budget(of[name], None if name in own_budget else budget),
        ]
        rows.append(Row(name, called[name], tuple(cell(of[name]) for cell in columns.values()), "; ".join(remarks)))
    return Table(("algorithm", *columns), tuple(rows))


def titles(names: Iterable[str]) -> dict[str, str]:
    """Return how algorithms are called where people read: files without folders, unless two would be called alike.

    >>> titles(["fedavg", "mine/no_gate.yaml", "mosaic+mine/gans.yaml"])
    {'fedavg': 'fedavg', 'mine/no_gate.yaml': 'no_gate.yaml', 'mosaic+mine/gans.yaml': 'mosaic+gans.yaml'}
    """
    short = {name: "+".join(PurePath(part).name for part in name.split("+")) for name in names}
    shared = {title for title, times in Counter(short.values()).items() if times > 1}
    return {name: name if title in shared else title for name, title in short.items()}


def _columns(reference: Sequence[Outcome], some_own: bool) -> dict[str, Cell]:
    def mean(value: Callable[[Outcome], float], digits: int = 0) -> Cell:
        return lambda found: Figure(statistics.fmean(map(value, found)), form=f",.{digits}f") if found else Figure()

    own: dict[str, Cell] = {"clients' own models": lambda found: _percent([o.own for o in found])}
    return {
        "seeds": lambda found: Figure(len(found) or None, form="d"),
        "test accuracy": lambda found: _percent([o.last for o in found]),
        "validated best": lambda found: _percent([o.chosen for o in found]),
        **(own if some_own else {}),
        "worst client": lambda found: _percent([None if o.last is None else o.worst_client for o in found]),
        "p": lambda found: _significance(reference, found),
        FIRST_COST: mean(lambda outcome: outcome.summary["bytes_up"] / _MEBIBYTE, digits=1),
        "MiB down": mean(lambda outcome: outcome.summary["bytes_down"] / _MEBIBYTE, digits=1),
        "seconds": mean(lambda outcome: outcome.summary["seconds"]),
        "local steps": mean(lambda outcome: outcome.updates("local")),
        "student updates": mean(lambda outcome: outcome.updates("student")),
        "generator updates": mean(lambda outcome: outcome.updates("generator")),
        "discriminator updates": mean(lambda outcome: outcome.updates("discriminator")),
    }


def _percent(shares: Sequence[float | None]) -> Figure:
    """Return mean and standard deviation over seeds in per cent, or nothing where a run has no such figure."""
    known = [100 * share for share in shares if share is not None]
    if not known or len(known) < len(shares):
        return Figure()
    return Figure(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None)


def _significance(reference: Sequence[Outcome], found: Sequence[Outcome]) -> Figure:
    """Return the p-value of the paired test against the first row, or nothing where there is nothing to test."""
    ours, theirs = ({o.seed: o.last for o in outcomes if o.last is not None} for outcomes in (found, reference))
    pairs = [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]
    if len(pairs) < FEWEST_FOR_A_TEST or all(a == b for a, b in pairs):
        return Figure()
    return Figure(paired_p_value(*zip(*pairs, strict=True)), form=".3g")


def paired_p_value(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the two-sided p-value of a paired t-test.

    >>> round(paired_p_value([1.0, 2.0, 3.0, 4.0], [0.0, 2.0, 2.0, 3.0]), 4)
    0.0577
    """
    from scipy.stats import ttest_rel

    return float(ttest_rel(first, second).pvalue)


def _chosen(found: Sequence[Outcome]) -> list[str]:
    parted = [setting.partition("=") for setting in dict.fromkeys(s for outcome in found for s in outcome.tuned)]
    return ["chose " + ", ".join(f"{key.rpartition('.')[2]} {value}" for key, _, value in parted)] if parted else []


def _refusals(found: Sequence[Outcome]) -> list[str]:
    refused = [(outcome.students, outcome) for outcome in found if outcome.students.refused]
    return [f"{students} on {seeds}" for students, seeds in _by_seed(refused)]


def _other_local_steps(found: Sequence[Outcome], reference: Sequence[Outcome]) -> list[str]:
    steps = {outcome.seed: outcome.updates("local") for outcome in reference}
    differs = any(outcome.updates("local") != steps.get(outcome.seed, outcome.updates("local")) for outcome in found)
    return ["other local steps than the first row"] if differs else []


def _other_budget(found: Sequence[Outcome], budget: DistillationBudget | None) -> list[str]:
    """Say what runs that distil have spent, where that is not the budget; the columns tell who trains no generator."""
    if budget is None:
        return []
    remarks = []
    for network, due in (("student", budget.student_updates), ("generator", budget.generator_updates)):
        spent = [(o.updates(network), o) for o in found if o.distils and o.updates(network) != due]
        for updates, seeds in _by_seed(spent):
            if updates or network == "student":
                remarks.append(f"{updates:,} {network} updates on {seeds}, where the budget is {due:,}")
    return remarks


def _by_seed(pairs: Iterable[tuple[T, Outcome | Failure]]) -> list[tuple[T, str]]:
    """Return each value once, with the words for the seeds on which it occurs."""
    seeds: dict[T, list[int]] = {}
    for value, result in pairs:
        seeds.setdefault(value, []).append(result.seed)
    return [(value, f"seed{'s' if len(of) > 1 else ''} {', '.join(map(str, of))}") for value, of in seeds.items()]
