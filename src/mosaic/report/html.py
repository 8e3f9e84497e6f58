"""``mosaic report``: one self-contained HTML page about a run."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from mosaic.errors import MosaicError
from mosaic.report.chart import Points, line_chart
from mosaic.report.record import RunRecord, read_run
from mosaic.report.students import count_students, judged_students
from mosaic.report.summary import ATTEMPTS, STAGES, attempts, final_stage, some_retried

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
    style = (files("mosaic.report") / "report.css").read_text()
    sections = (
        ("Accuracy over rounds", _curves(record)),
        ("What each stage reaches", _stages(record)),
        ("Who holds what", _picture(record, "data/partition", "Images to train on, by client and class.")),
        ("Generators", _generators(record)),
        (
            "Who speaks for which class",
            _picture(record, "server/expert_authority", "How much each expert counts for each class, before the gate."),
        ),
        (
            "Confusion",
            _picture(
                record, "server/confusion", "Each row is a true class of the test split, as shares of its images."
            ),
        ),
        ("What it took", _cost(record)),
        ("Configuration", f"<details><summary>config.yaml</summary><pre>{escape(record.config)}</pre></details>"),
        ("Environment", _environment(record)),
    )
    body = "".join(f"<section><h2>{title}</h2>{content}</section>" for title, content in sections if content)
    return (
        f'<!doctype html>{_MARK}<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(record.name)}</title>'
        f"<style>{style}</style></head><body><main>{_heading(record)}{body}</main></body></html>\n"
    )


def _heading(record: RunRecord) -> str:
    algorithm = _class_name(record.settings["algorithm"])
    source, partition = (_class_name(record.settings["data"][key]) for key in ("source", "partition"))
    facts = [
        ("data", f"{source}, {partition}"),
        ("seed", f"{record.settings['seed_everything']}, partition {record.settings['data']['seed']}"),
        ("rounds", f"{len(record.rounds)}"),
    ]
    figures = [(_percent(record.summary.get("test_accuracy")), "test accuracy of the global model")]
    if record.summary.get("own_test_accuracy") is not None:
        own = _percent(record.summary["own_test_accuracy"])
        figures = [(own, "test accuracy of the clients' own models, mean by images")]
    if record.rounds:
        figures.append((_percent(record.rounds[-1].get("validation_accuracy")), "on the clients' validation images"))
        figures.append((_percent(record.rounds[-1].get("worst_validation_accuracy")), "at the worst client"))
    unfinished = "" if record.summary else '<p class="warning">This run has not come to an end.</p>'
    tiles = "".join(f'<div class="tile"><b>{value}</b><span>{escape(of)}</span></div>' for value, of in figures)
    told = " · ".join(f"{key} {escape(value)}" for key, value in facts)
    return (
        f"<header><p>{escape(record.name)}</p><h1>{escape(algorithm)}</h1><p>{told}</p>{unfinished}"
        f'<div class="tiles">{tiles}</div></header>'
    )


def _curves(record: RunRecord) -> str:
    if not record.rounds:
        return "<p>No round has been finished.</p>"
    distilled = [row["round"] or 0.0 for row in record.rounds if row.get("student_accepted") is not None]
    accuracy = {
        "test": _points(record, "test_accuracy", 100),
        "clients' own models, test": _points(record, "own_test_accuracy", 100),
        "validation": _points(record, "validation_accuracy", 100),
        "worst client, validation": _points(record, "worst_validation_accuracy", 100),
    }
    note = "Dashed lines mark the rounds in which the server distilled." if distilled else ""
    loss = line_chart({"local training loss": _points(record, "train_loss")}, "nats", distilled, width=440)
    sums = {"sent to clients": _running(record, "bytes_down"), "received": _running(record, "bytes_up")}
    return (
        f"<h3>Accuracy, %</h3>{line_chart(accuracy, 'accuracy, %', distilled)}<p>{note}</p>"
        f'<div class="pair"><div><h3>Local loss, nats</h3>{loss}</div>'
        f"<div><h3>Traffic so far, MiB</h3>{line_chart(sums, 'MiB', distilled, width=440)}</div></div>"
    )


def _points(record: RunRecord, key: str, scale: float = 1.0) -> Points:
    pairs = [(row["round"], row.get(key)) for row in record.rounds]
    return [(x, scale * y) for x, y in pairs if x is not None and y is not None]


def _running(record: RunRecord, key: str) -> Points:
    total, points = 0.0, []
    for row in record.rounds:
        total += (row[key] or 0.0) / _MEBIBYTE
        points.append((row["round"] or 0.0, total))
    return points


def _stages(record: RunRecord) -> str:
    stages: dict[str, float] = record.summary.get("stages", {})
    if not stages:
        return ""
    bars = [(escape(name), _bar(share), escape(STAGES.get(name.split(":")[0], ""))) for name, share in stages.items()]
    last = record.summary.get("test_accuracy")
    if last is not None:
        bars.append((f"<b>{final_stage(record.summary, record.rounds)}</b>", _bar(last), "the model of this run"))
    students = judged_students(record.summary, count_students(record.rounds))
    note = f"<p>The clients' validation images refused {students}.</p>" if students.refused else ""
    return _table(("model", "test accuracy", "what it is"), bars, text={0, 1, 2}) + note


def _bar(share: float) -> str:
    percent = 100 * share
    return f'<span class="bar"><i style="width:{percent:.1f}%"></i></span><span class="figure">{percent:.2f} %</span>'


def _generators(record: RunRecord) -> str:
    facts = record.summary.get("generators", [])
    retried = some_retried(facts)
    rows = [
        (
            str(each["client"]),
            str(each["images"]),
            str(each["classes"]),
            _percent(each.get("coverage"), 0),
            f"{each['nearest_neighbour_ratio']:.2f}" if each.get("nearest_neighbour_ratio") is not None else "-",
            *([attempts(each)] if retried else []),
        )
        for each in facts
    ]
    grids = sorted(tag for tag in record.pictures if tag.endswith("/samples"))
    shown = "".join(_image(record.pictures[tag], _maker(tag)) for tag in grids)
    if not rows and not shown:
        return ""
    words = (
        "<p>As their owners see them. Coverage: share of classes made as often as held, 100 % is best. Nearest "
        "neighbour: distance to the nearest training image over that of held-out images; about 1 is best, well below 1 "
        f"is copying.{f' {ATTEMPTS.capitalize()}.' if retried else ''}</p>"
    )
    head = ("client", "images", "classes", "coverage", "nearest neighbour", *(["attempts"] if retried else []))
    table = _table(head, rows) if rows else ""
    return f'{words if rows else ""}{table}<div class="samples">{shown}</div>'


def _maker(tag: str) -> str:
    """Say whose generator has made a grid of samples, from its tag in TensorBoard."""
    match tag.split("/"):
        case ["generator", client, _]:
            return f"client {int(client)}"
        case _:
            return "made on the server"


def _cost(record: RunRecord) -> str:
    summary = record.summary
    if not summary:
        return ""
    down, up = summary["bytes_down"], summary["bytes_up"]
    traffic = [(escape(kind), _mebibytes(down[kind]), _mebibytes(up[kind])) for kind in down]
    traffic.append(("<b>all</b>", _mebibytes(sum(down.values())), _mebibytes(sum(up.values()))))
    seconds = [(escape(phase), f"{value:.1f}") for phase, value in summary["seconds"].items()]
    seconds.append(("<b>all</b>", f"{sum(summary['seconds'].values()):.1f}"))
    updates = [(escape(network), f"{count:,}") for network, count in summary.get("updates", {}).items()]
    declined = "".join(
        f"<p>Client {each['client']} declined ({escape(each['asked'])}): {escape(each['reason'])}</p>"
        for each in summary["declined"]
    )
    memory = f"<p>Peak memory of the process: {summary['peak_memory_bytes'] / 2**30:.2f} GiB</p>"
    return (
        f'<div class="columns"><div>{_table(("message", "MiB sent to clients", "MiB received"), traffic)}</div>'
        f"<div>{_table(('phase', 'seconds'), seconds)}</div>"
        f"<div>{_table(('network', 'updates'), updates)}</div></div>{memory}{declined}"
    )


def _environment(record: RunRecord) -> str:
    plain = {key: value for key, value in record.environment.items() if key != "packages"}
    rows = [(escape(key.replace("_", " ")), escape(_text(value))) for key, value in plain.items()]
    rows += [(escape(name), escape(version)) for name, version in record.environment.get("packages", {}).items()]
    return f"<details><summary>versions and hardware</summary>{_table(('', ''), rows, text={0, 1})}</details>"


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _picture(record: RunRecord, tag: str, caption: str) -> str:
    return _image(record.pictures[tag], caption) if tag in record.pictures else ""


def _image(png: bytes, caption: str) -> str:
    data = base64.b64encode(png).decode()
    text = escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], text: Iterable[int] = (0,)) -> str:
    """Return a table of cells that are escaped already; all columns but those of text are figures."""
    words = set(text)

    def line(cells: Sequence[str], kind: str) -> str:
        return "".join(
            f"<{kind}{'' if place in words else ' class=number'}>{cell}</{kind}>" for place, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    top = f"<thead><tr>{line(head, 'th')}</tr></thead>" if any(head) else ""
    return f'<div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>'


def _class_name(section: Any) -> str:
    path = section["class_path"] if isinstance(section, dict) else str(section)
    return str(path).rpartition(".")[2]


def _percent(share: float | None, digits: int = 2) -> str:
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def _mebibytes(count: int) -> str:
    return f"{count / _MEBIBYTE:.2f}"
