"""``mosaic report``: one self-contained HTML page about a run."""

from itertools import accumulate
from pathlib import Path
from typing import Any

from mosaic.audit.finding import Finding
from mosaic.report.audit_table import audit_head, audit_rows, verdict
from mosaic.report.chart import Points, line_chart
from mosaic.report.contents import RunContents, read_run
from mosaic.report.pages import MEBIBYTE, render, write_page
from mosaic.report.summary import ABSENCES, ATTEMPTS, STAGES, absences, final_stage, generator_table
from mosaic.runs.rounds import ACCURACIES
from mosaic.runs.students import students_of


def report(run: Path, output: Path | None = None) -> Path:
    """Write one self-contained HTML page with everything that a run has left.

    Args:
        run: the run's folder, finished or not.
        output: file to write; report.html in the run's folder when not given. An older report is replaced.
    """
    return write_page(page(read_run(run)), output or run / "report.html")


def page(contents: RunContents) -> str:
    """Return the whole page."""
    summary = contents.summary
    head, rows = generator_table(summary.get("generators", []))
    findings = [Finding(**each) for each in contents.audit.get("findings", ())]
    return render(
        "report.html.j2",
        attempts=ATTEMPTS if "attempts" in head else "",
        audit=(audit_head(findings), audit_rows(findings)),
        charts=_charts(contents),
        figures=_figures(contents),
        final_stage=final_stage(summary, contents.rounds),
        generators=(head, rows),
        meanings=STAGES,
        run=contents,
        samples={tag: _maker(tag) for tag in sorted(contents.pictures) if tag.endswith("/samples")},
        students=students_of(contents.rounds),
        absences=(ABSENCES, absences(summary)),
        verdict=verdict(findings).splitlines(),
    )


def _figures(contents: RunContents) -> list[tuple[float | None, str]]:
    """Return the figures at the top of the page, as shares, with what they are of."""
    figures: list[tuple[float | None, str]] = []
    if not contents.summary or contents.summary.get("test_accuracy") is not None:
        figures = [(contents.summary.get("test_accuracy"), "test accuracy of the global model")]
    if (own := contents.summary.get("own_test_accuracy")) is not None:
        figures.append((own, "test accuracy of the clients' own models, mean by images"))
    if contents.rounds:
        last = contents.rounds[-1]
        figures.append((last.get("validation_accuracy"), "on the clients' validation images"))
        figures.append((last.get("worst_validation_accuracy"), "at the worst client"))
    return figures


def _charts(contents: RunContents) -> dict[str, Any]:
    """Draw accuracy, loss and traffic over rounds, and say in which rounds the server distilled."""
    distilled = [row["round"] or 0.0 for row in contents.rounds if row.get("student_accepted") is not None]
    accuracy = {name: points(contents, column, 100) for column, name in ACCURACIES.items()}
    traffic = {"sent to clients": _running(contents, "bytes_down"), "received": _running(contents, "bytes_up")}
    return {
        "accuracy": line_chart(accuracy, "accuracy, %", distilled),
        "loss": line_chart({"local training loss": points(contents, "train_loss")}, "nats", distilled, width=440),
        "traffic": line_chart(traffic, "MiB", distilled, width=440),
        "distilled": distilled,
    }


def points(contents: RunContents, key: str, scale: float = 1.0) -> Points:
    """Return a figure of every round in which it was measured."""
    pairs = [(row["round"], row.get(key)) for row in contents.rounds]
    return [(x, scale * y) for x, y in pairs if x is not None and y is not None]


def _running(contents: RunContents, key: str) -> Points:
    sums = accumulate((row[key] or 0.0) / MEBIBYTE for row in contents.rounds)
    return [(row["round"] or 0.0, total) for row, total in zip(contents.rounds, sums, strict=True)]


def _maker(tag: str) -> str:
    """Say who has made a grid of samples, from its tag in TensorBoard."""
    where, client, *_ = tag.split("/")
    return f"client {int(client)}" if where == "generator" else "made on the server"
