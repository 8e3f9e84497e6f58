"""``mosaic report``: one self-contained HTML page about a run."""

from base64 import b64encode
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from mosaic.errors import MosaicError
from mosaic.report.chart import Points, line_chart
from mosaic.report.record import RunRecord, read_run
from mosaic.report.students import count_students, judged_students
from mosaic.report.summary import ATTEMPTS, STAGES, final_stage, generator_table, percent

_MARK = "<!-- mosaic report -->"
_MEBIBYTE = 2**20


def report(run: Path, output: Path | None = None) -> Path:
    """Write one HTML page with everything that a run has left; it needs no network to be read.

    Args:
        run: the run's folder, finished or not.
        output: file to write; report.html in the run's folder when not given. An older report is replaced.

    Returns:
        The written file.

    Raises:
        MosaicError: the folder holds no run, or the file is something else than a report.
    """
    record = read_run(run)
    output = output or run / "report.html"
    if output.exists() and not (output.is_file() and _MARK in output.read_text(errors="replace")[:200]):
        raise MosaicError(f"{output} exists and is no report of mosaic: choose another --output")
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = output.with_name(f"{output.name}.tmp")
    aside.write_text(page(record))
    aside.replace(output)
    return output


def page(record: RunRecord) -> str:
    """Return the whole page."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "base64": lambda png: b64encode(png).decode(),
        "class_name": lambda section: str(_class_path(section)).rpartition(".")[2],
        "mebibytes": lambda count: f"{count / _MEBIBYTE:.2f}",
        "percent": percent,
    }
    template, summary = (files("mosaic.report") / "report.html.j2").read_text(), record.summary
    head, rows = generator_table(summary.get("generators", []))
    return environment.from_string(template).render(
        attempts=ATTEMPTS if "attempts" in head else "",
        charts=_charts(record),
        figures=_figures(record),
        final_stage=final_stage(summary, record.rounds),
        generators=(head, rows),
        mark=_MARK,
        meanings=STAGES,
        record=record,
        samples={tag: _maker(tag) for tag in sorted(record.pictures) if tag.endswith("/samples")},
        students=judged_students(summary, count_students(record.rounds)),
        style=(files("mosaic.report") / "report.css").read_text(),
    )


def _figures(record: RunRecord) -> list[tuple[float | None, str]]:
    """Return the figures at the top of the page, as shares, with what they are of."""
    own = record.summary.get("own_test_accuracy")
    figures = [(record.summary.get("test_accuracy"), "test accuracy of the global model")]
    if own is not None:
        figures = [(own, "test accuracy of the clients' own models, mean by images")]
    if record.rounds:
        last = record.rounds[-1]
        figures.append((last.get("validation_accuracy"), "on the clients' validation images"))
        figures.append((last.get("worst_validation_accuracy"), "at the worst client"))
    return figures


def _charts(record: RunRecord) -> dict[str, Any]:
    """Draw accuracy, loss and traffic over rounds, and say in which rounds the server distilled."""
    distilled = [row["round"] or 0.0 for row in record.rounds if row.get("student_accepted") is not None]
    accuracy = {
        "test": _points(record, "test_accuracy", 100),
        "clients' own models, test": _points(record, "own_test_accuracy", 100),
        "validation": _points(record, "validation_accuracy", 100),
        "worst client, validation": _points(record, "worst_validation_accuracy", 100),
    }
    traffic = {"sent to clients": _running(record, "bytes_down"), "received": _running(record, "bytes_up")}
    return {
        "accuracy": line_chart(accuracy, "accuracy, %", distilled),
        "loss": line_chart({"local training loss": _points(record, "train_loss")}, "nats", distilled, width=440),
        "traffic": line_chart(traffic, "MiB", distilled, width=440),
        "distilled": distilled,
    }


def _points(record: RunRecord, key: str, scale: float = 1.0) -> Points:
    pairs = [(row["round"], row.get(key)) for row in record.rounds]
    return [(x, scale * y) for x, y in pairs if x is not None and y is not None]


def _running(record: RunRecord, key: str) -> Points:
    total, points = 0.0, []
    for row in record.rounds:
        total += (row[key] or 0.0) / _MEBIBYTE
        points.append((row["round"] or 0.0, total))
    return points


def _maker(tag: str) -> str:
    """Say whose generator has made a grid of samples, from its tag in TensorBoard."""
    match tag.split("/"):
        case ["generator", client, _]:
            return f"client {int(client)}"
    return "made on the server"


def _class_path(section: Any) -> Any:
    return section["class_path"] if isinstance(section, dict) else section
