"""What each part of Mosaic is worth: one factor at a time around the default, and the controls that it must beat.

    python benchmarks/ablation.py run [--settings digits-0.05 ...] [--rows default FedAvg ...] [--seeds 0 1 ...]
    python benchmarks/ablation.py table          # writes the tables into docs/ablation.md and README.md

    python benchmarks/ablation.py time           # how many rounds of FedAvg fit into the time that Mosaic takes

Every finished run leaves a line under benchmarks/results/ablation/ and is not run again, so an interrupted start goes
on where it stopped. Rows of one setting and seed share what their clients compute: see remembering.py. Choices between
rows rest on the clients' validation images; test accuracy is only reported.

Single switches were moved around a base, the defaults before them; what they showed became the default. So there are
rows around the base, and rows around the default.
"""

import argparse
import contextlib
import io
import json
import logging
import multiprocessing
import os
import re
import shutil
import sys
import time
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

from mosaic.comparison.json_lines import JsonLines
from mosaic.report.rounds import read_rounds

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "ablation"
SCRATCH = ROOT / "runs" / "ablation"


@dataclass(frozen=True)
class Row:
    """One way of running a setting.

    Attributes:
        means: what it is, in plain words.
        flags: what differs from the default, without ``--algorithm.`` in front, or a whole flag.
        overlays: configurations stacked on the setting's.
        around: what the row departs from, and is compared with.
    """

    means: str
    flags: tuple[str, ...] = ()
    overlays: tuple[str, ...] = ()
    around: Literal["default", "base"] = "default"

    def arguments(self) -> list[str]:
        """Return the command line's part of this row."""
        files = [f"--config={ROOT / 'configs' / overlay}.yaml" for overlay in self.overlays]
        return [*files, *(flag if flag.startswith("--") else f"--algorithm.{flag}" for flag in self.flags)]


@dataclass(frozen=True)
class Setting:
    """Data, clients and schedule.

    Attributes:
        means: what it is, in plain words.
        configs: stacked configurations.
        flags: more of the command line.
        seeds: of the rows that matter most; the other rows take the first ``few`` of them.
        few: seeds of all other rows.
        rows: which rows are run here.
        many: the rows that matter most.
        student: whether generators and student are trained; if not, only the teachers' accuracies count.
        same_time: rounds of FedAvg that take as long as Mosaic does, measured with ``time``.
    """

    means: str
    configs: tuple[str, ...]
    flags: tuple[str, ...]
    seeds: int
    few: int
    rows: tuple[str, ...]
    many: tuple[str, ...]
    student: bool = True
    same_time: int | None = None

    def arguments(self, seed: int) -> list[str]:
        """Return the command line's part of this setting."""
        files = [f"--config={ROOT / 'configs' / name}.yaml" for name in self.configs]
        return [*files, f"--seed_everything={seed}", f"--data.seed={seed}", *self.flags]

    def run_arguments(self, row: Row, seed: int) -> list[str]:
        """Return the command line of one run."""
        from ablation_plan import BASE

        another = any(overlay.startswith("algorithms/") for overlay in row.overlays)
        base = BASE.arguments() if row.around == "base" and self.student and not another else []
        collaborative = str((self.same_time or 3) - 3)
        filled = [argument.replace("{collaborative}", collaborative) for argument in row.arguments()]
        return [*self.arguments(seed), *base, *filled]


@dataclass(frozen=True)
class Target:
    """A figure that Mosaic's defaults were to reach.

    Attributes:
        means: what it is, in plain words.
        setting: where.
        wanted: at least that many per cent or points.
        minus: a row whose test accuracy, or a stage of the default whose accuracy, is taken off; nothing to ask for
            the accuracy itself.
        stage: whose accuracy it is about, if not the final model's.
    """

    means: str
    setting: str
    wanted: float
    minus: str | None = None
    stage: str | None = None

    def value(self, results: Mapping[str, Mapping[int, Mapping[str, Any]]], seed: int) -> float | None:
        """Return the figure of one seed, if there is one."""
        run = results["default"][seed]
        ours = run["stages"].get(self.stage) if self.stage else run["test_accuracy"]
        if self.minus is None or ours is None:
            return ours
        if self.minus in results:
            other = results[self.minus].get(seed)
            return None if other is None else ours - other["test_accuracy"]
        return ours - run["stages"][self.minus] if self.minus in run["stages"] else None


def schedule(collaborative: int, fine_tune: int, steps: int) -> tuple[str, ...]:
    return tuple(
        f"--federation.schedule.{key}={value}"
        for key, value in {
            "collaborative_rounds": collaborative,
            "fine_tune_rounds": fine_tune,
            "local_steps": steps,
        }.items()
    )


def load_plan() -> tuple[dict[str, dict[str, Row]], dict[str, Setting]]:
    from ablation_plan import GROUPS, SETTINGS

    return GROUPS, SETTINGS


def row_called(name: str) -> Row:
    groups, _ = load_plan()
    return next(group[name] for group in groups.values() if name in group)


def results_of(setting: str, results: Path) -> JsonLines:
    return JsonLines(results / f"{setting}.jsonl", ("row", "seed"))


def find_result(setting: str, row: str, seed: int, results: Path, arguments: list[str]) -> dict[str, Any] | None:
    """Return what this very run has left; a row whose flags have changed is run again."""
    for each in results_of(setting, results).read():
        if (each["row"], each["seed"]) == (row, seed) and is_of(each, arguments):
            return each
    return None


def is_of(result: Mapping[str, Any], arguments: list[str]) -> bool:
    """Whether a result is that of a run with these arguments."""
    return bool(result["arguments"] == portable(arguments))


def file_name(row: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", row)


def portable(arguments: Iterable[str]) -> list[str]:
    return [argument.replace(f"{ROOT}/", "") for argument in arguments]


def run(setting: str, row: str, seed: int, results: Path, scratch: Path) -> dict[str, Any]:
    """Run one row, unless it has been run already, and return its result."""
    from mosaic.cli import main as mosaic

    arguments = load_plan()[1][setting].run_arguments(row_called(row), seed)
    found = find_result(setting, row, seed, results, arguments)
    if found is not None:
        return found
    folder = scratch / setting / f"{file_name(row)}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    executor = [
        "--executor=remembering.RememberingExecutor",
        f"--executor.folder={scratch / 'replies'}",
        "--executor.threads=1",
    ]
    quiet = ["--federation.snapshot_every=1000", "--federation.keep_snapshots=1"]
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        mosaic(["fit", *arguments, *executor, *quiet, f"--federation.run_dir={folder}"])
    seconds = round(time.perf_counter() - started, 1)
    told = {"setting": setting, "row": row, "seed": seed, "arguments": portable(arguments)}
    result = {**told, **outcome_of(folder), "date": str(date.today()), "wall_seconds": seconds}
    results_of(setting, results).put(result)
    shutil.rmtree(folder)
    return result


def outcome_of(folder: Path) -> dict[str, Any]:
    """Return the figures of a finished run."""
    summary = json.loads((folder / "summary.json").read_text())
    stages = {name: value for name, value in summary["stages"].items() if not name.startswith("expert: ")}
    experts = [value for name, value in summary["stages"].items() if name.startswith("expert: ")]
    if experts:
        stages["best expert"] = max(experts)
    return {
        "test_accuracy": summary["test_accuracy"],
        "validation_accuracy": read_rounds(folder)[-1]["validation_accuracy"],
        "rounds": summary["rounds"],
        "distilled": summary["distilled"],
        "stages": stages,
        "generators": summary.get("generators", []),
        "bytes_up": sum(summary["bytes_up"].values()),
        "bytes_down": sum(summary["bytes_down"].values()),
    }


def run_all(task: tuple[str, int, list[str], Path, Path]) -> None:
    """Run the rows of one setting and seed, one after the other; a row that fails does not stop the others."""
    setting, seed, rows, results, scratch = task
    import torch

    torch.set_num_threads(1)
    logging.getLogger("mosaic").setLevel(logging.ERROR)
    for row in rows:
        started = time.perf_counter()
        try:
            accuracy = run(setting, row, seed, results, scratch)["test_accuracy"]
        except BaseException as error:
            traceback.print_exc()
            print(f"{setting}, {row}, seed {seed}: failed: {error}", file=sys.stderr, flush=True)
            continue
        print(
            f"{setting:24} {row:28} seed {seed}  {100 * accuracy:6.2f} %  {time.perf_counter() - started:6.1f} s",
            flush=True,
        )


def compare_times(task: tuple[str, Path]) -> str:
    """Run Mosaic and FedAvg of one setting, nothing remembered; say how many rounds of FedAvg fit into the time."""
    from mosaic.cli import main as mosaic

    name, scratch = task
    setting, seconds = load_plan()[1][name], {}
    logging.getLogger("mosaic").setLevel(logging.ERROR)
    for row in ("default", "FedAvg"):
        folder = scratch / "time" / f"{name}-{file_name(row)}"
        shutil.rmtree(folder, ignore_errors=True)
        plain = ["--executor=mosaic.federation.executors.SerialExecutor", "--executor.threads=1"]
        with contextlib.redirect_stdout(io.StringIO()):
            mosaic(["fit", *setting.run_arguments(row_called(row), 0), *plain, f"--federation.run_dir={folder}"])
        summary = json.loads((folder / "summary.json").read_text())
        seconds[row] = sum(summary["seconds"].values())
        rounds = summary["rounds"]
        shutil.rmtree(folder)
    fit = round(rounds * seconds["default"] / seconds["FedAvg"])
    took = f"Mosaic {seconds['default']:7.1f} s, FedAvg {seconds['FedAvg']:6.1f} s"
    return f"{name:20} {took} for {rounds} rounds: {fit} fit"


def tasks(
    settings: Mapping[str, Setting], chosen: set[str], rows: set[str], seeds: set[int], results: Path, scratch: Path
) -> list[tuple[str, int, list[str], Path, Path]]:
    """Return what to run, by setting and seed: first the rows that matter most, everywhere, then the others."""
    found = []
    for first in (True, False):
        for name, setting in settings.items():
            for seed in range(setting.seeds if first else setting.few):
                own = [row for row in setting.rows if (row in setting.many) == first and (not rows or row in rows)]
                if own and (not chosen or name in chosen) and (not seeds or seed in seeds):
                    found.append((name, seed, own, results, scratch))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["run", "table", "list", "time"])
    parser.add_argument("--settings", nargs="*", default=[])
    parser.add_argument("--rows", nargs="*", default=[])
    parser.add_argument("--seeds", nargs="*", type=int, default=[])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--scratch", type=Path, default=SCRATCH)
    options = parser.parse_args()
    groups, settings = load_plan()
    if options.command == "table":
        from ablation_table import write_tables

        write_tables(groups, settings, options.results, ROOT)
        return
    chosen = tasks(
        settings,
        *(set(chosen) for chosen in (options.settings, options.rows, options.seeds)),
        options.results.resolve(),
        options.scratch.resolve(),
    )
    if options.command == "time":
        os.environ["OMP_NUM_THREADS"] = "1"
        names = [name for name, setting in settings.items() if setting.student and setting.same_time]
        with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
            wanted = [(name, options.scratch.resolve()) for name in names if name in (options.settings or names)]
            for line in pool.imap_unordered(compare_times, wanted, chunksize=1):
                print(line, flush=True)
        return
    if options.command == "list":
        for setting, seed, own, *_ in chosen:
            print(setting, seed, ", ".join(own))
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for _ in pool.imap_unordered(run_all, chosen, chunksize=1):
            pass


if __name__ == "__main__":
    main()
