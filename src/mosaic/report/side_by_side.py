"""``mosaic report`` of several runs: one self-contained HTML page that puts them side by side."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mosaic.errors import MosaicError
from mosaic.report.chart import line_chart
from mosaic.report.contents import RunContents, read_run
from mosaic.report.html import points
from mosaic.report.pages import MEBIBYTE, class_name, render, write_page
from mosaic.report.summary import percent
from mosaic.runs.rounds import ACCURACIES

MOST_RUNS = 8
"""A chart has so many colours."""
_NOT_SHOWN = ("federation.run_dir", "ckpt_path")
_PICTURES = {
    "data/partition": "Who holds what",
    "server/confusion": "Confusion",
    "synthesis/samples": "Made on the server",
}
_HEAD = ("run", "algorithm", "seed", "rounds", "test", "own models", "validation", "worst client", "MiB", "seconds")


def report_side_by_side(runs: Sequence[Path], output: Path | None = None) -> Path:
    """Write one self-contained HTML page that puts several runs side by side.

    Args:
        runs: their folders, finished or not.
        output: file to write; side_by_side.html beside the first run's folder when not given.
    """
    if len(runs) > MOST_RUNS:
        raise MosaicError(f"mosaic report: expected at most {MOST_RUNS} runs on one page, got {len(runs)}")
    contents = [read_run(run) for run in runs]
    names = _names(runs)
    shown = Counter(tag for each in contents for tag in each.pictures)
    tags = sorted(tag for tag, times in shown.items() if times > 1)  # there is nothing beside a single one
    page = render(
        "side_by_side.html.j2",
        accuracy=_chart(names, contents, ("test_accuracy", "own_test_accuracy")),
        validation=_chart(names, contents, ("validation_accuracy",)),
        differences=_differences(contents),
        figures=(_HEAD, [_row(name, each) for name, each in zip(names, contents, strict=True)]),
        names=names,
        stages=_stages(contents),
        pictures={_told(tag): [each.pictures.get(tag) for each in contents] for tag in tags},
    )
    return write_page(page, output or runs[0].resolve().parent / "side_by_side.html")


def _names(runs: Sequence[Path]) -> list[str]:
    """Return short names, all different: those of the folders, with the folders above where these are alike."""
    parts = [run.resolve().parts for run in runs]
    depth = 1
    while depth < max(map(len, parts)) and len({each[-depth:] for each in parts}) < len(parts):
        depth += 1
    return ["/".join(each[-depth:]) for each in parts]


def _chart(names: Sequence[str], contents: Sequence[RunContents], keys: Sequence[str]) -> str:
    """Draw the first of these figures that a run has, of every run; the legend says where it is not the first."""
    curves = {}
    for name, each in zip(names, contents, strict=True):
        key = next((key for key in keys if points(each, key)), keys[0])
        curves[name if key == keys[0] else f"{name} ({ACCURACIES[key]})"] = points(each, key, 100)
    return line_chart(curves, "accuracy, %")


def _row(name: str, run: RunContents) -> tuple[str, ...]:
    last, summary = run.rounds[-1] if run.rounds else {}, run.summary
    shares = [percent(last.get(key)) for key in ACCURACIES]
    traffic = sum((row.get("bytes_up") or 0.0) + (row.get("bytes_down") or 0.0) for row in run.rounds) / MEBIBYTE
    seconds = f"{sum(summary['seconds'].values()):.0f}" if summary else "not finished"
    algorithm, seed = class_name(run.settings["algorithm"]), str(run.settings["seed_everything"])
    return (name, algorithm, seed, str(len(run.rounds)), *shares, f"{traffic:.1f}", seconds)


def _stages(contents: Sequence[RunContents]) -> list[tuple[str, ...]]:
    """Return the accuracy of every stage in every run, and a dash where a run has none."""
    found = [each.summary.get("stages", {}) for each in contents]
    return [(name, *(percent(each.get(name)) for each in found)) for name in dict.fromkeys(n for s in found for n in s)]


def _differences(contents: Sequence[RunContents]) -> list[tuple[str, ...]]:
    """Return the settings in which runs differ, with each run's value, or a dash where it has none.

    Where classes differ, the class is shown, what all of them take, and what those that take it disagree about.
    """
    flat = [_flat(each.settings) for each in contents]
    rows = []
    for key in dict.fromkeys(key for each in flat for key in each):
        values = [_value(each, key) for each in flat]
        if len(set(values)) > 1 and key not in _NOT_SHOWN and not _is_of_other_classes(key, flat):
            rows.append((key.replace(".init_args", "").replace(".class_path", ""), *values))
    return rows


def _value(flat: Mapping[str, Any], key: str) -> str:
    """Return a setting, the one above it where that has nothing below, or a dash."""
    return next((str(flat[above]) for above in (key, *_above(key)) if flat.get(above, {}) != {}), "-")


def _is_of_other_classes(key: str, flat: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a setting that some run lacks is one of a class that it does not have, or has settings below it there.

    What those that have it disagree about is shown all the same.
    """
    if all(key in each for each in flat) or len({str(each[key]) for each in flat if key in each}) > 1:
        return False
    classes = [each for each in (f"{above}.class_path" for above in _above(key)) if each != key]
    other = any(len({each.get(path) for each in flat}) > 1 for path in classes)
    return other or any(found.startswith(f"{key}.") for each in flat for found in each)


def _above(key: str) -> list[str]:
    """Return the keys above a key, the nearest first.

    >>> _above("a.b.c")
    ['a.b', 'a']
    """
    parts = key.split(".")
    return [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
        flat |= inner
    return flat


def _told(tag: str) -> str:
    """Say what a picture shows, from its name in TensorBoard."""
    where, *rest = tag.split("/")
    if where == "generator":
        return f"Generated by client {int(rest[0])}"
    return _PICTURES.get(tag, rest[-1].replace("_", " ").capitalize() if rest else tag)
