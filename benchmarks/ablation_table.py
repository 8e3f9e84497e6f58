"""Turn the results of benchmarks/ablation.py into the tables of docs/ablation.md."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ablation import Row, Setting, Target, is_of, results_of

STAGES = {
    "global before distillation": "averaged model",
    "best expert": "best single expert",
    "plain ensemble": "plain ensemble",
    "prototype head": "H",
    "prototype classifier": "H+K",
    "gated teacher": "gated teacher",
    "student": "student",
}
_SHARES = {
    "in_own_classes": "in the owner's classes, %",
    "agreement": "shows its label, %",
    "coverage": "coverage, %",
}
Results = dict[str, dict[int, dict[str, Any]]]
"""By row and seed."""


def read(name: str, setting: Setting, rows: Mapping[str, Row], results: Path) -> Results:
    """Return what has been run of a setting, as its rows are defined now."""
    found: Results = {row: {} for row in rows}
    for result in results_of(name, results).read():
        row, seed = result["row"], result["seed"]
        if row in rows and is_of(result, setting.run_arguments(rows[row], seed)):
            found[row][seed] = result
    return {row: seeds for row, seeds in found.items() if seeds}


def mean_and_error(values: Sequence[float], signed: bool = False) -> str:
    """Return per cent with the standard error of the mean, where there are several."""
    sign = "+" if signed else ""
    text = f"{100 * statistics.mean(values):{sign}.2f}"
    if len(values) < 2:
        return text
    return f"{text} ± {100 * statistics.stdev(values) / len(values) ** 0.5:.2f}"


def paired(results: Results, row: str, key: str, other: str) -> str:
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
    """Return one line for each row: accuracy, and paired difference on test and validation images.

    Rows differ from the default, or from the base if that is what they were moved around.
    """
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
                paired(results, row, "test_accuracy", _other(row, rows)),
                paired(results, row, "validation_accuracy", _other(row, rows)),
                f"{sum(taken)}/{len(taken)}" if students else "",
            ]
        )
    other = "base" if all(row.around == "base" for row in rows.values()) else "default"
    header = ["row", "seeds", "test accuracy, %", f"test - {other}'s", f"validation - {other}'s", "student accepted"]
    return table(header, lines)


def _other(row: str, rows: Mapping[str, Row]) -> str:
    """Return what a row is compared with; the base itself is compared with the default."""
    return rows[row].around if row != "base" else "default"


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
    """Return one line for each setting: FedAvg, also for as long as Mosaic takes, the prototype head, and Mosaic."""
    lines = []
    for name, setting in settings.items():
        found = every[name]
        if {"FedAvg", "default"} <= found.keys():
            seeds = sorted(found["FedAvg"].keys() & found["default"].keys())
            cells = [_accuracy(found, row, seeds) for row in ("FedAvg", "H", "default")]
            gain = paired(found, "default", "test_accuracy", "FedAvg")
            longer = _accuracy(found, "FedAvg, same time", sorted(found.get("FedAvg, same time", {})))
            more = [longer and f"{longer} ({setting.same_time})", _gain_over(found, "FedAvg, same time")]
            lines.append([f"{name.split('-')[0]}: {setting.means}", str(len(seeds)), *cells, gain, *more])
    header = [
        "data",
        "seeds",
        "FedAvg",
        "prototype head",
        "Mosaic",
        "Mosaic - FedAvg",
        "FedAvg in about the same time (rounds)",
    ]
    return table([*header, "Mosaic - FedAvg in that time"], lines)


def _accuracy(found: Results, row: str, seeds: Sequence[int]) -> str:
    if row not in found or not set(seeds) <= found[row].keys():
        return ""
    return mean_and_error([found[row][seed]["test_accuracy"] for seed in seeds])


def _gain_over(found: Results, row: str) -> str:
    return paired(found, "default", "test_accuracy", row) if row in found else ""


def targets_table(targets: Sequence[Target], every: Mapping[str, Results]) -> list[str]:
    """Return one line for each figure that was aimed at: what came out, and by how much it was missed."""
    lines = []
    for target in targets:
        outcomes = every[target.setting].get("default", {})
        values = [
            value for seed in sorted(outcomes) if (value := target.value(every[target.setting], seed)) is not None
        ]
        if values:
            short = target.wanted - 100 * statistics.mean(values)
            missed = f"{short:.2f}" if short > 0 else ""
            measured = mean_and_error(values, signed=target.minus is not None)
            lines.append([target.means, f"{target.wanted:g}", str(len(values)), measured, missed])
    return table(["figure", "at least", "seeds", "measured", "missed by"], lines)


def generators_table(folder: Path) -> list[str]:
    """Return one line for each run whose generators benchmarks/generator_quality.py has measured."""
    lines = []
    for file in sorted(folder.glob("*.json")):
        found = json.loads(file.read_text())["summary"]
        shares = [f"{100 * found[name]:.1f}" if name in found else "" for name in _SHARES]
        ratios = [f"{found[name]:.2f}" if name in found else "" for name in ("median_ratio", "smallest_ratio")]
        distance = f"{found['frechet_distance']:.2f} ({found['frechet_distance_of_test_images']:.2f})"
        lines.append([file.stem, *shares, *ratios, distance, f"{found['real_images']:,.0f}"])
    return table(["run", *_SHARES.values(), "ratio, median", "smallest", "Frechet distance", "real images"], lines)


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
    from ablation_plan import TARGETS

    rows = {name: row for group in groups.values() for name, row in group.items()}
    every = {name: read(name, setting, rows, results) for name, setting in settings.items()}
    lines: list[str] = []
    for name in [name for name, setting in settings.items() if setting.student]:
        if every[name]:
            lines += [f"### {name}: {settings[name].means}", ""]
        for title, group in groups.items():
            if any(row in every[name] for row in group):
                lines += [f"{title}:", "", *rows_table(group, every[name]), ""]
    blocks = {"targets": targets_table(TARGETS, every), "stages": stages_table(settings, every), "rows": lines[:-1]}
    blocks["generators"] = generators_table(results.parent / "generators")
    replace_blocks(root / "docs" / "ablation.md", blocks)
    replace_blocks(root / "README.md", {"results": summary_table(settings, every)})
