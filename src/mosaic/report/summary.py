"""Print the tables that end a run: accuracies, generators, traffic, time and missing clients."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

from rich.console import Console
from rich.table import Table

from mosaic.runs.facts import read_facts
from mosaic.runs.rounds import Round, read_rounds
from mosaic.runs.students import students_of

Row = tuple[str, ...]

LAST_HEAD = "global before its new head"
STAGES = {
    "global before distillation": "average of the clients' models",
    LAST_HEAD: "average of the last round's models",
    "expert": "one expert alone",
    "plain ensemble": "mean of the experts' probabilities",
    "logit ensemble": "mean of the experts' logits",
    "weighted ensemble": "experts weighed on generated images",
    "prototype head": "a new last layer from prototypes",
    "prototype classifier": "from prototypes alone, no experts",
    "gated teacher": "experts weighed by what each knows",
    "student before its new head": "has learnt from generated images",
    "student": "has learnt from generated images",
    "distilled model": "average tuned on generated images",
}
"""What the stages of a distilling round are, in plain words."""
GENERATORS = (
    "Generators, as their owners see them: share of classes made as often as held (coverage, 100 % is best); distance\n"
    "to the nearest training image over that of held-out images (about 1 is best, well below 1 is copying)"
)
VALIDATION = "the clients' validation images, since there is no test split"
ATTEMPTS = "attempts: more than 1 where a generator diverged and was trained once more at a lower rate"


def print_summary(run: Path, console: Console | None = None) -> None:
    """Print stage accuracies, traffic and time of a finished run, and where to look further.

    Args:
        run: the run's folder.
        console: where to print; standard output when not given.
    """
    console = console or Console()
    summary, rounds = read_facts(run / "summary.json"), read_rounds(run)
    heading = (
        f"{summary['algorithm']}, {summary['rounds']} rounds, seed {summary['seed']}, partition seed "
        f"{summary['partition_seed']}: accuracy on {'the test split' if is_tested(summary) else VALIDATION}"
    )
    tables = {heading: _stages(summary, rounds)}
    head, rows = generator_table(summary["generators"])
    if rows:
        tables[f"{GENERATORS}\n{ATTEMPTS}" if "attempts" in head else GENERATORS] = _table(head, rows)
    down, up, seconds = summary["bytes_down"], summary["bytes_up"], summary["seconds"]
    traffic = [(kind, _mebibytes(down[kind]), _mebibytes(up[kind])) for kind in down]
    sums = ("all", _mebibytes(sum(down.values())), _mebibytes(sum(up.values())))
    tables["Traffic over all rounds"] = _table(("message", "sent to clients", "received"), traffic, sums)
    times = [(phase, f"{value:.1f}") for phase, value in seconds.items()]
    tables["Time"] = _table(("phase", "seconds"), times, ("all phases", f"{sum(seconds.values()):.1f}"))
    for title, table in tables.items():
        console.print(f"\n[bold]{title}[/bold]", highlight=False, soft_wrap=True)
        console.print(table)
    say = partial(console.print, highlight=False, markup=False, soft_wrap=True)
    for client, how, asked, count, reason in absences(summary):
        say(f"Client {client} {how} ({asked}{f', {count} times' if count != '1' else ''}): {reason}")
    if privacy := summary.get("privacy"):
        say(f"\n{_budget(privacy)}")
    say(f"\nRun directory: {run}")
    say(f"TensorBoard:   tensorboard --logdir {quote(str(run))}")


def is_tested(summary: Mapping[str, Any]) -> bool:
    """Whether a finished run was measured on a test split; a server whose clients are elsewhere may have none."""
    return any(summary.get(key) is not None for key in ("test_accuracy", "own_test_accuracy"))


def final_stage(summary: Mapping[str, Any], rounds: Sequence[Round]) -> str:
    """Name a run's last global model: it was fine-tuned if rounds followed the student that the clients took."""
    followed = bool(rounds) and not rounds[-1].get("distils")
    return "after fine-tuning" if summary.get("distilled") and followed else "global model"


def generator_table(generators: Sequence[Mapping[str, Any]]) -> tuple[Row, list[Row]]:
    """Return head and rows of the generators' table, with a column of attempts where one was trained more than once."""
    retried = any(facts["attempts"] > 1 for facts in generators)
    rows = []
    for facts in generators:
        ratio = facts.get("nearest_neighbour_ratio")
        cells = (
            *(str(facts[key]) for key in ("client", "images", "classes")),
            percent(facts.get("coverage"), 0),
            "-" if ratio is None else f"{ratio:.2f}",
            f"{facts['attempts']:.0f}",
        )
        rows.append(cells if retried else cells[:-1])
    head = ("client", "images", "classes", "coverage", "nearest neighbour", "attempts")
    return head if retried else head[:-1], rows


ABSENCES = ("client", "how", "asked", "times", "reason")


def absences(summary: Mapping[str, Any]) -> list[Row]:
    """Return which clients declined or failed, what they were asked, how often, and why."""
    found = Counter(
        (str(each["client"]), how, each["asked"], each["reason"])
        for how in ("declined", "failed")
        for each in summary.get(how, ())
    )
    return [(client, how, asked, str(times), reason) for (client, how, asked, reason), times in found.items()]


def percent(share: float | None, digits: int = 2) -> str:
    """Write a share in per cent, and a dash where it was not measured."""
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def _budget(privacy: Mapping[str, Any]) -> str:
    """Say what a client's images may cost, and what they have."""
    promised, spent = privacy["promised"], privacy["spent"]
    cost = f"at most {spent['epsilon']:.2f} is spent" if spent else "the clients' own ledgers say how much is spent"
    return f"Privacy: epsilon {promised['epsilon']:g} at delta {promised['delta']:g} for each client; {cost}."


def _stages(summary: dict[str, Any], rounds: Sequence[Round]) -> Table:
    rows = [
        (stage, percent(share), STAGES.get(stage.split(":")[0], ""))
        for stage, share in _gathered(summary["stages"]).items()
    ]
    own = percent(summary["own_test_accuracy"])
    if summary["test_accuracy"] is not None and summary["own_test_accuracy"] is not None:
        rows.append(("clients' own models", own, "mean by images, of other networks"))
    students = students_of(rounds)
    if students.refused:
        rows.append(("", "", str(students)))
    means = "this run's model; new head offered" if LAST_HEAD in summary["stages"] else "the model of this run"
    last = (final_stage(summary, rounds), percent(summary["test_accuracy"]), means)
    if not is_tested(summary):
        said = rounds[-1].get("validation_accuracy") if rounds else None
        last = (final_stage(summary, rounds), percent(said), means)
    elif summary["test_accuracy"] is None:
        last = ("clients' own models", own, "mean by images; there is no global model")
    return _table(("model", "accuracy", "what it is"), rows, last)


def _gathered(stages: Mapping[str, float]) -> dict[str, float]:
    """Return stages with their accuracies; the worst and the best of many experts stand for all."""
    experts = sorted((stage for stage in stages if stage.startswith("expert:")), key=lambda stage: stages[stage])
    if len(experts) <= 2:
        return dict(stages)
    shown = {experts[place]: f"expert: {name} of {len(experts)}" for place, name in ((0, "worst"), (-1, "best"))}
    return {shown.get(each, each): share for each, share in stages.items() if each in shown or each not in experts}


def _table(head: Row, rows: Iterable[Row], last: Row = ()) -> Table:
    table = Table()
    for place, column in enumerate(head):
        table.add_column(column, justify="right" if place and column != "what it is" else "left")
    for row in rows:
        table.add_row(*row)
    if last:
        table.add_section()
        table.add_row(*last, style="bold")
    return table


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.2f} MiB"
