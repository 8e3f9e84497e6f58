"""``mosaic report``: one self-contained HTML page about a run."""

from base64 import b64encode
from importlib.resources import files
from itertools import accumulate
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from mosaic.audit.finding import Finding
from mosaic.audit.table import audit_head, audit_rows, verdict
from mosaic.errors import MosaicError
from mosaic.report.chart import Points, line_chart
from mosaic.report.contents import RunContents, read_run
from mosaic.report.students import count_students, students_of
from mosaic.report.summary import ABSENCES, ATTEMPTS, STAGES, absences, final_stage, generator_table, percent

_MARK = "<!-- mosaic report -->"
_MEBIBYTE = 2**20


def report(run: Path, output: Path | None = None) -> Path:
    """Write one self-contained HTML page with everything that a run has left.

    Args:
        run: the run's folder, finished or not.
        output: file to write; report.html in the run's folder when not given. An older report is replaced.
    """
    contents = read_run(run)
    output = output or run / "report.html"
    if output.exists() and not (output.is_file() and _MARK in output.read_text(errors="replace")[:200]):
        raise MosaicError(f"{output} exists and is no report of mosaic: choose another --output")
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = output.with_name(f"{output.name}.tmp")
    aside.write_text(page(contents))
    aside.replace(output)
    return output


def page(contents: RunContents) -> str:
    """Return the whole page."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "base64": lambda png: b64encode(png).decode(),
        "class_name": _class_name,
        "mebibytes": lambda count: f"{count / _MEBIBYTE:.2f}",
        "percent": percent,
    }
    template, summary = (files("mosaic.report") / "report.html.j2").read_text(), contents.summary
    head, rows = generator_table(summary.get("generators", []))
    findings = [Finding(**each) for each in contents.audit.get("findings", ())]
    return environment.from_string(template).render(
        attempts=ATTEMPTS if "attempts" in head else "",
        audit=(audit_head(findings), audit_rows(findings)),
        charts=_charts(contents),
        figures=_figures(contents),
        final_stage=final_stage(summary, contents.rounds),
        generators=(head, rows),
        mark=_MARK,
        meanings=STAGES,
        run=contents,
        samples={tag: _maker(tag) for tag in sorted(contents.pictures) if tag.endswith("/samples")},
        students=students_of(summary, count_students(contents.rounds)),
        absences=(ABSENCES, absences(summary)),
        verdict=verdict(findings).splitlines(),
        style=(files("mosaic.report") / "report.css").read_text(),
    )


def _figures(contents: RunContents) -> list[tuple[float | None, str]]:
    """Return the figures at the top of the page, as shares, with what they are of."""
    figures: list[tuple[float | None, str]] = []
    if not contents.summary or contents.summary.get("test_accuracy") is not None:
        figures = [(contents.summary.get("test_accuracy"), "test accuracy of the global model")]
    if (own := contents.summary.get("own_test_accuracy")) is not None:
        figures = [(own, "test accuracy of the clients' own models, mean by images")]
    if contents.rounds:
        last = contents.rounds[-1]
        figures.append((last.get("validation_accuracy"), "on the clients' validation images"))
        figures.append((last.get("worst_validation_accuracy"), "at the worst client"))
    return figures


def _charts(contents: RunContents) -> dict[str, Any]:
    """Draw accuracy, loss and traffic over rounds, and say in which rounds the server distilled."""
    distilled = [row["round"] or 0.0 for row in contents.rounds if row.get("student_accepted") is not None]
    accuracy = {
        "test": _points(contents, "test_accuracy", 100),
        "clients' own models, test": _points(contents, "own_test_accuracy", 100),
        "validation": _points(contents, "validation_accuracy", 100),
        "worst client, validation": _points(contents, "worst_validation_accuracy", 100),
    }
    traffic = {"sent to clients": _running(contents, "bytes_down"), "received": _running(contents, "bytes_up")}
    return {
        "accuracy": line_chart(accuracy, "accuracy, %", distilled),
        "loss": line_chart({"local training loss": _points(contents, "train_loss")}, "nats", distilled, width=440),
        "traffic": line_chart(traffic, "MiB", distilled, width=440),
        "distilled": distilled,
    }


def _points(contents: RunContents, key: str, scale: float = 1.0) -> Points:
    pairs = [(row["round"], row.get(key)) for row in contents.rounds]
    return [(x, scale * y) for x, y in pairs if x is not None and y is not None]


def _running(contents: RunContents, key: str) -> Points:
    sums = accumulate((row[key] or 0.0) / _MEBIBYTE for row in contents.rounds)
    return [(row["round"] or 0.0, total) for row, total in zip(contents.rounds, sums, strict=True)]


def _maker(tag: str) -> str:
    """Say who has made a grid of samples, from its tag in TensorBoard."""
    where, client, *_ = tag.split("/")
    return f"client {int(client)}" if where == "generator" else "made on the server"


def _class_name(section: Any) -> str:
    return str(section["class_path"] if isinstance(section, dict) else section).rpartition(".")[2]
