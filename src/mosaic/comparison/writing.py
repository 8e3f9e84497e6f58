"""Write a comparison: one table in four forms, and accuracy against rounds and against traffic."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console

from mosaic.comparison.budget import DistillationBudget
from mosaic.comparison.formats import comma_separated, latex, markdown, terminal
from mosaic.comparison.outcome import Failure, Outcome
from mosaic.comparison.table import FEWEST_FOR_A_TEST, comparison_table, titles
from mosaic.disk import write_whole
from mosaic.runs.figures import Band, bands

Over = Literal["rounds", "traffic"]
OVER: dict[Over, str] = {"rounds": "communication round", "traffic": "MiB sent and received"}
"""What accuracy is drawn against, by the name of the picture."""
COLUMNS = (
    "Mean ± standard deviation over seeds, in per cent.",
    "test accuracy: of the global model after the last round.",
    "validated best: the same after the round that the clients' validation images like best, if the same clients judge "
    "every round.",
    "clients' own models: test accuracy, mean by images, of models that clients keep.",
    "worst client: lowest accuracy on one client's validation images, among the last round's clients with at least 20.",
    "seconds: of all phases; pictures, and measurements of the stages in a round, are not in them.",
    f"p: paired two-sided t-test over seeds against the first row, from {FEWEST_FOR_A_TEST} seeds on, uncorrected.",
)
"""What the columns mean."""


def write_comparison(
    results: Sequence[Outcome | Failure],
    facts: Mapping[str, str],
    output: Path,
    console: Console,
    budget: DistillationBudget | None = None,
    own_budget: Collection[str] = (),
) -> None:
    """Print the table and write it, with plots of the runs that have finished.

    ``facts`` says in words what the runs have in common; the budget holds for every row that distils, unless it is in
    ``own_budget``.
    """
    table = comparison_table(results, budget, own_budget)
    outcomes = [result for result in results if isinstance(result, Outcome)]
    told = [f"{key}: {value}" for key, value in (*facts.items(), *_measured(outcomes))]
    output.mkdir(parents=True, exist_ok=True)
    lines = "\n".join(f"* {line}" for line in (*table.notes, *COLUMNS, *told))
    page = "\n\n".join([*map(markdown, table.parted()), lines]) + "\n"
    for kind, text in {"md": page, "csv": comma_separated(table), "tex": latex(table)}.items():
        write_whole(output / f"comparison.{kind}", text.encode())
    for name, label in OVER.items():
        picture = output / f"{name}.png"
        if drawn := accuracy_bands(outcomes, name):
            write_whole(picture, bands(drawn, x_label=label, y_label="test accuracy, %").png())
        else:  # an older one would show other runs
            picture.unlink(missing_ok=True)
    for part in table.parted():
        console.print()
        console.print(terminal(part))
    for line in (*table.notes, "", *COLUMNS, "", *told, f"written to {output}"):
        console.print(line, soft_wrap=True)


def _measured(outcomes: Sequence[Outcome]) -> list[tuple[str, str]]:
    """Say when, where and how long."""
    if not outcomes:
        return []
    days = sorted({outcome.date for outcome in outcomes})
    minutes = sum(outcome.summary["seconds"] for outcome in outcomes) / 60
    machines = "; ".join(sorted({outcome.machine for outcome in outcomes}))
    when = " to ".join(dict.fromkeys([days[0], days[-1]]))
    versions = sorted({outcome.version for outcome in outcomes})
    by = f", by mosaic {' and '.join(versions)}" if len(versions) > 1 else ""
    return [("measured", f"{when} on {machines}{by}, {minutes:.0f} minute{'' if round(minutes) == 1 else 's'} in all")]


def accuracy_bands(outcomes: Sequence[Outcome], over: Over) -> dict[str, Band]:
    """Return a mean curve and its spread over seeds for each algorithm with a global model.

    Args:
        outcomes: of all runs.
        over: what accuracy is drawn against, rounds or MiB.
    """
    drawn = {}
    column, scale = ("round", 1.0) if over == "rounds" else ("bytes", 2.0**-20)
    for name, title in titles(dict.fromkeys(outcome.algorithm for outcome in outcomes)).items():
        found = [outcome for outcome in outcomes if outcome.algorithm == name]
        rounds = min(len(outcome.rounds) for outcome in found)
        figures = [[outcome.rounds[round].get("test_accuracy") for outcome in found] for round in range(rounds)]
        measured = [round for round, each in enumerate(figures) if None not in each]
        if not measured:
            continue
        rows = [[outcome.rounds[round] for round in measured] for outcome in found]
        places = np.array([[row[column] for row in each] for each in rows], dtype=float).mean(0)
        heights = 100 * np.array([figures[round] for round in measured], dtype=float).T
        spread = heights.std(0, ddof=1) if len(found) > 1 else 0 * heights[0]
        drawn[title] = Band(scale * places, heights.mean(0), spread)
    return drawn
