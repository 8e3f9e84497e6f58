"""The table that closes a run."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mosaic.report.rounds import Round, read_rounds
from mosaic.report.students import Students, count_students, judged_students

STAGES = {
    "global before distillation": "average of the clients' models",
    "global before its new head": "average of the clients' models",
    "expert": "one expert alone",
    "plain ensemble": "mean of the experts' probabilities",
    "logit ensemble": "mean of the experts' logits",
    "weighted ensemble": "experts weighed on generated images",
    "prototype head": "a new last layer from prototypes",
    "prototype classifier": "from prototypes alone, no experts",
    "gated teacher": "experts weighed by what each knows",
    "student": "has learnt from generated images",
    "distilled model": "average tuned on generated images",
}
"""What the stages of a distilling round are, in plain words."""
GENERATORS = (
    "Generators, as their owners see them: share of classes made as often as held (coverage, 100 % is best); distance\n"
    "to the nearest training image over that of held-out images (about 1 is best, well below 1 is copying)"
)
ATTEMPTS = "attempts: more than 1 where a generator diverged and was trained once more at a lower rate"
_MEBIBYTE = 2**20


def print_summary(run: Path, console: Console | None = None) -> None:
    """Print stage accuracies, traffic and time of a finished run, and where to look further.

    Args:
        run: the run's folder.
        console: where to print; standard output when not given.
    """
    console = console or Console()
    summary = json.loads((run / "summary.json").read_text())
    rounds = read_rounds(run)
    students = judged_students(summary, count_students(rounds))
    heading = (
        f"{summary['algorithm']}, {summary['rounds']} rounds, seed {summary['seed']}, partition seed "
        f"{summary['partition_seed']}: accuracy on the test split"
    )
    retried = f"\n{ATTEMPTS}" if some_retried(summary["generators"]) else ""
    generators = {f"{GENERATORS}{retried}": _generators(summary)} if summary["generators"] else {}
    costs = {"Traffic over all rounds": _traffic(summary), "Time": _time(summary)}
    for title, table in {heading: _stages(summary, rounds, students), **generators, **costs}.items():
        console.print(f"\n[bold]{title}[/bold]", highlight=False, soft_wrap=True)
        console.print(table)
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    for refusal in summary["declined"]:
        say("Client {client} declined ({asked}): {reason}".format(**refusal))
    say(f"\nRun directory: {run}")
    say(f"TensorBoard:   tensorboard --logdir {run}")


def _stages(summary: dict[str, Any], rounds: Sequence[Round], students: Students) -> Table:
    table = _table("model", "accuracy", "what it is")
    for stage, accuracy in summary["stages"].items():
        table.add_row(stage, f"{100 * accuracy:.2f} %", STAGES.get(stage.split(":")[0], ""))
    if students.refused:
        table.add_row("", "", f"the clients' validation images refused {students}")
    table.add_section()
    table.add_row(*_outcome(summary, rounds), style="bold")
    return table


def final_stage(summary: Mapping[str, Any], rounds: Sequence[Round]) -> str:
    """Name a run's last global model: it was fine-tuned if rounds followed the student that the clients took."""
    followed = bool(rounds) and not rounds[-1].get("distils")
    return "after fine-tuning" if summary.get("distilled") and followed else "global model"


def _outcome(summary: dict[str, Any], rounds: Sequence[Round]) -> tuple[str, str, str]:
    """Return the row of what a run has come to."""
    if summary["test_accuracy"] is None:
        own = summary["own_test_accuracy"]
        meaning = "mean by images; there is no global model"
        return "clients' own models", "-" if own is None else f"{100 * own:.2f} %", meaning
    return final_stage(summary, rounds), f"{100 * summary['test_accuracy']:.2f} %", "the model of this run"


def _generators(summary: dict[str, Any]) -> Table:
    retried = some_retried(summary["generators"])
    table = _table("client", "images", "classes", "coverage", "nearest neighbour", *(["attempts"] if retried else []))
    for facts in summary["generators"]:
        ratio = facts.get("nearest_neighbour_ratio")
        table.add_row(
            str(facts["client"]),
            str(facts["images"]),
            str(facts["classes"]),
            f"{100 * facts['coverage']:.0f} %",
            "-" if ratio is None else f"{ratio:.2f}",
            *([attempts(facts)] if retried else []),
        )
    return table


def some_retried(generators: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a client has trained its generator more than once, since it had diverged."""
    return any(facts.get("attempts", 1) > 1 for facts in generators)


def attempts(facts: Mapping[str, Any]) -> str:
    """Say how often a client has trained its generator; runs of earlier versions do not tell."""
    return f"{facts['attempts']:.0f}" if "attempts" in facts else "-"


def _traffic(summary: dict[str, Any]) -> Table:
    table = _table("message", "sent to clients", "received")
    down, up = summary["bytes_down"], summary["bytes_up"]
    for kind in down:
        table.add_row(kind, _mebibytes(down[kind]), _mebibytes(up[kind]))
    table.add_section()
    table.add_row("all", _mebibytes(sum(down.values())), _mebibytes(sum(up.values())), style="bold")
    return table


def _time(summary: dict[str, Any]) -> Table:
    table = _table("phase", "seconds")
    for phase, seconds in summary["seconds"].items():
        table.add_row(phase, f"{seconds:.1f}")
    table.add_section()
    table.add_row("all", f"{sum(summary['seconds'].values()):.1f}", style="bold")
    return table


def _table(*columns: str) -> Table:
    table = Table()
    table.add_column(columns[0])
    for column in columns[1:]:
        table.add_column(column, justify="left" if column == "what it is" else "right")
    return table


def _mebibytes(count: int) -> str:
    return f"{count / _MEBIBYTE:.2f} MiB"
