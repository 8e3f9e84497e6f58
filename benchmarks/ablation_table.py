"""Turn the results of benchmarks/ablation.py into the tables of docs/ablation.md."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ablation import Row, Setting, result_file

STAGES = {
    "global before distillation": "averaged model",
    "best expert": "best single expert",
    "plain ensemble": "plain ensemble",
    "prototype head": "H",
    "prototype classifier": "H+K",
    "gated teacher": "gated teacher",
    "student": "student",
}
Results = dict[str, dict[int, dict[str, Any]]]
"""By row and seed."""


def read(setting: str, rows: Mapping[str, Row], results: Path) -> Results:
    """Return what has been run of a setting."""
    found: Results = {}
    for row in rows:
        for file in sorted(result_file(setting, row, 0, results).parent.glob("seed*.json")):
            outcome = json.loads(file.read_text())
            found.setdefault(row, {})[outcome["seed"]] = outcome
    return found


def mean_and_error(values: Sequence[float], signed: bool = False) -> str:
    """Return per cent with the standard error of the mean, where there are several."""
    sign = "+" if signed else ""
    text = f"{100 * statistics.mean(values):{sign}.2f}"
    if len(values) < 2:
        return text
    return f"{text} ± {100 * statistics.stdev(values) / len(values) ** 0.5:.2f}"


def paired(results: Results, row: str, key: str, other: str = "default") -> str:
    """Return row minus another row, over the seeds that both have."""
    seeds = sorted(results[row].keys() & results.get(other, {}).keys())
    if row == other or not seeds:
        return ""
    return mean_and_error([results[row][seed][key] - results[other][seed][key] for seed in seeds], signed=True)


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """Return a markdown table; the first column is text, the others are figures."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (header, rule, *lines)]


def rows_table(rows: Mapping[str, Row], results: Results) -> list[str]:
    """Return one line for each row: accuracy, and paired difference from the default on test and validation images."""
    lines = []
    for row in rows:
        if row not in results:
            continue
        outcomes = results[row].values()
        taken = [outcome["distilled"] for outcome in outcomes]
        students = any("student" in outcome["stages"] for outcome in outcomes)
        lines.append(
            [
                f"**{row}**: {rows[row].means}",
                str(len(outcomes)),
                mean_and_error([outcome["test_accuracy"] for outcome in outcomes]),
                paired(results, row, "test_accuracy"),
                paired(results, row, "validation_accuracy"),
                f"{sum(taken)}/{len(taken)}" if students else "",
            ]
        )
    header = ["row", "seeds", "test accuracy, %", "test - default's", "validation - default's", "student accepted"]
    return table(header, lines)


def stages_table(settings: Mapping[str, Setting], every: Mapping[str, Results]) -> list[str]:
    """Return the stage accuracies of the default in each setting, and of all rows where only teachers are trained."""
    lines = []
    for name, setting in settings.items():
        for row in ("default",) if setting.student else setting.rows:
            outcomes = list(every[name].get(row, {}).values())
            if outcomes:
                cells = [_stage(outcomes, stage) if setting.student or stage != "student" else "" for stage in STAGES]
                final = mean_and_error([outcome["test_accuracy"] for outcome in outcomes]) if setting.student else ""
                lines.append([name if row == "default" else f"{name}, {row}", *cells, final])
    return table(["setting", *STAGES.values(), "final model"], lines)


def _stage(outcomes: Sequence[Mapping[str, Any]], stage: str) -> str:
    found = [outcome["stages"][stage] for outcome in outcomes if stage in outcome["stages"]]
    return mean_and_error(found) if found else ""


def summary_table(settings: Mapping[str, Setting], every: Mapping[str, Results]) -> list[str]:
    """Return one line for each setting: FedAvg, the prototype head and Mosaic over the seeds that have been run."""
    lines = []
    for name, setting in settings.items():
        found = [every[name][row] for row in ("FedAvg", "H", "default") if row in every[name]]
        seeds = sorted(set.intersection(*map(set, found))) if found else []
        if {"FedAvg", "default"} <= every[name].keys() and seeds:
            accuracy = [[outcomes[seed]["test_accuracy"] for seed in seeds] for outcomes in found]
            gains = [ours - theirs for theirs, ours in zip(accuracy[0], accuracy[-1], strict=True)]
            cells = [*map(mean_and_error, accuracy), mean_and_error(gains, signed=True)]
            if "H" not in every[name]:
                cells.insert(1, "")
            lines.append([f"{name.split('-')[0]}: {setting.means}", str(len(seeds)), *cells])
    return table(["data", "seeds", "FedAvg", "prototype head", "Mosaic", "Mosaic - FedAvg"], lines)


def replace_blocks(page: Path, blocks: Mapping[str, Sequence[str]]) -> None:
    """Replace what stands between a page's markers; the words around them are written by hand."""
    text = page.read_text()
    for name, lines in blocks.items():
        start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, rest = text.split(start)
        text = "\n".join([before + start, "", *lines, "", end]) + rest.split(end)[1]
    page.write_text(text)


def write_tables(
    groups: Mapping[str, Mapping[str, Row]], settings: Mapping[str, Setting], results: Path, root: Path
) -> None:
    """Write the tables of docs/ablation.md and the one of README.md."""
    rows = {name: row for group in groups.values() for name, row in group.items()}
    every = {name: read(name, rows, results) for name in settings}
    lines: list[str] = []
    for name in [name for name, setting in settings.items() if setting.student]:
        if every[name]:
            lines += [f"### {name}: {settings[name].means}", ""]
        for title, group in groups.items():
            if any(row in every[name] for row in group):
                lines += [f"{title}:", "", *rows_table(group, every[name]), ""]
    replace_blocks(root / "docs" / "ablation.md", {"stages": stages_table(settings, every), "rows": lines[:-1]})
    replace_blocks(root / "README.md", {"results": summary_table(settings, every)})
