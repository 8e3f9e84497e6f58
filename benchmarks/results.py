"""Every algorithm on the same partitions, seeds, network and budget: what README.md and docs/results.md report.

    python benchmarks/results.py run [--settings digits-0.05 ...] [--processes 2]
    python benchmarks/results.py table          # writes docs/results.md and README.md

Each setting is one `mosaic compare`, which leaves a line per run under benchmarks/results/comparison/ and does not run
it again, so an interrupted start goes on where it stopped.
"""

import argparse
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean, stdev

from ablation_table import replace_blocks, table

from mosaic.comparison.outcome import Outcome

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "comparison"
SCRATCH = ROOT / "runs" / "comparison"
AVERAGING = ("fedavg", "fedprox", "fedrs", "fedvls", "fedbn", "prototype_head")
DISTILLING = ("mosaic", "dense", "co_boosting", "fedftg", "dfrd")
FROZEN = ("fedftg_frozen", "dfrd_frozen")
"""The same with the average's BatchNorm statistics, which on some data decides whether a student is of any use."""
ENDS = ("local_only", "centralised")
EVERY = (*DISTILLING, *AVERAGING, *ENDS)
RELEASED = ("mosaic_paper+reduced", "dense_released", "co_boosting_released", "fedftg_released")
"""At their own budgets. Mosaic's, of 200 epochs at width 64, would take half a day: its reduced one stands in.
Co-Boosting's belongs to one round, and none of DFRD was at hand."""

ADDED = ("-frozen", "-released")
"""How settings end whose rows are added to those of another."""


@dataclass(frozen=True)
class Setting:
    """One table.

    Attributes:
        means: in plain words.
        config: common to all runs.
        overlays: stacked on it.
        algorithms: rows.
        seeds: of partition and initialisation.
        own_budget: whether every row spends what its preset says.
    """

    means: str
    config: str
    overlays: tuple[str, ...] = ()
    algorithms: tuple[str, ...] = EVERY
    seeds: tuple[int, ...] = (0, 1, 2)
    own_budget: bool = False

    def arguments(self, name: str, processes: int) -> list[str]:
        """Return the command line of its comparison."""
        overlays = [f"configs/{overlay}.yaml" for overlay in self.overlays]
        options = {
            "algorithms": self.algorithms,
            "seeds": self.seeds,
            "overlay": overlays,
            "own_budget": self.algorithms if self.own_budget else (),
            "output": [RESULTS.relative_to(ROOT) / name],
            "runs": [SCRATCH.relative_to(ROOT) / name],
            "processes": [processes],
        }
        flags = (f"--{option}={','.join(map(str, values))}" for option, values in options.items())
        return ["compare", f"configs/{self.config}.yaml", *flags]

    def is_complete(self, name: str) -> bool:
        """Whether every run has left its outcome."""
        there = {(outcome.algorithm, outcome.seed) for outcome in outcomes(name)}
        return there >= {(algorithm, seed) for algorithm in self.algorithms for seed in self.seeds}


_SKEW, _ONE_SHOT = "partitions/dirichlet_{}", "schedules/one_shot"
SETTINGS = {
    "digits-0.05": Setting("digits, Dirichlet 0.05, 13 rounds of 20 steps", "digits"),
    "digits-0.05-one-shot": Setting("digits, Dirichlet 0.05, one round of 200 steps", "digits", (_ONE_SHOT,)),
    "digits-0.1": Setting("digits, Dirichlet 0.1, 13 rounds of 20 steps", "digits", (_SKEW.format(0.1),)),
    "digits-0.1-one-shot": Setting(
        "digits, Dirichlet 0.1, one round of 200 steps", "digits", (_SKEW.format(0.1), _ONE_SHOT)
    ),
    "mnist-0.05": Setting(
        "10,000 images of MNIST, Dirichlet 0.05, 13 rounds of 20 steps",
        *("mnist", ("data/mnist_part", _SKEW.format(0.05), "schedules/thirteen_rounds")),
    ),
    "digits-0.05-released": Setting(
        "digits, Dirichlet 0.05, 13 rounds of 20 steps, released budgets, one seed",
        *("digits", (), tuple(name for name in RELEASED if name != "co_boosting_released"), (0,), True),
    ),
    "digits-0.05-one-shot-released": Setting(
        "digits, Dirichlet 0.05, one round of 200 steps, released budgets, one seed",
        *("digits", (_ONE_SHOT,), RELEASED, (0,), True),
    ),
    "mnist-0.05-frozen": Setting(
        "10,000 images of MNIST, Dirichlet 0.05, students with the average's BatchNorm statistics",
        *("mnist", ("data/mnist_part", _SKEW.format(0.05), "schedules/thirteen_rounds"), FROZEN),
    ),
}
"""By priority."""


@cache
def outcomes(name: str) -> list[Outcome]:
    """Return what the runs of a setting have left."""
    return Outcome.read_all(RESULTS / name / "outcomes.jsonl")


def accuracies(name: str) -> dict[str, list[float]]:
    """Return test accuracies by algorithm: of the global model, or else the mean over clients' own."""
    found: dict[str, list[float]] = {}
    for outcome in outcomes(name):
        accuracy = outcome.last if outcome.last is not None else outcome.own
        found.setdefault(outcome.algorithm, []).append(100 * accuracy)
    return found


def summary_table(names: Iterable[str]) -> list[str]:
    """Return a line for each algorithm and a column for each setting that is complete: mean test accuracy.

    Rows of frozen statistics and of released budgets are added where they are complete. The best method with one global
    model and the common budget is in bold. Below the table it says when, where and how long was measured.
    """
    shown = [name for name in names if SETTINGS[name].is_complete(name)]
    sources = {name: [name, *(name + ending for ending in ADDED if _there(name + ending))] for name in shown}
    columns = {name: {row: v for source in of for row, v in accuracies(source).items()} for name, of in sources.items()}
    rivals = {*DISTILLING, *FROZEN, *AVERAGING} - {"fedbn"}
    best = {name: max((mean(v) for row, v in of.items() if row in rivals), default=0.0) for name, of in columns.items()}
    lines = []
    for row in (*EVERY, *FROZEN, *RELEASED):
        if any(row in found for found in columns.values()):
            mark = " *" if row in ("fedbn", "local_only") else " **" if row in RELEASED else ""
            lines.append([f"`{row}`{mark}", *(_cell(columns[name].get(row), best[name]) for name in shown)])
    header = ["algorithm", *(SETTINGS[name].means for name in shown)]
    return [*table(header, lines), "", measured(source for of in sources.values() for source in of)]


def _there(name: str) -> bool:
    return name in SETTINGS and SETTINGS[name].is_complete(name)


def _cell(accuracies: Sequence[float] | None, best: float) -> str:
    if accuracies is None:
        return ""
    text = f"{mean(accuracies):.2f}"
    spread = f" ± {stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
    return f"**{text}**{spread}" if mean(accuracies) == best else f"{text}{spread}"


def measured(names: Iterable[str]) -> str:
    """Say when and where these settings were run, and how long it took."""
    every = [outcome for name in names for outcome in outcomes(name)]
    days = sorted(outcome.date for outcome in every)
    machines = "; ".join(sorted({outcome.machine for outcome in every}))
    minutes = sum(outcome.summary["seconds"] for outcome in every) / 60
    when = " to ".join(dict.fromkeys([days[0], days[-1]]))
    return f"Measured {when} on {machines}: {len(every)} runs, {minutes:.0f} minutes of one core."


def pages(names: Iterable[str]) -> list[str]:
    """Return every setting's own tables."""
    lines: list[str] = []
    for name in names:
        page = RESULTS / name / "comparison.md"
        if page.is_file() and SETTINGS[name].is_complete(name):
            lines += [f"### {SETTINGS[name].means}", "", page.read_text().strip(), ""]
    return lines[:-1]


def write_tables(root: Path) -> None:
    """Write the tables of docs/results.md and the one of README.md."""
    matched = [name for name, setting in SETTINGS.items() if setting.algorithms == EVERY]
    replace_blocks(root / "docs" / "results.md", {"summary": summary_table(matched), "tables": pages(SETTINGS)})
    replace_blocks(root / "README.md", {"comparison": summary_table(matched)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["run", "table"])
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS))
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    if options.command == "table":
        write_tables(ROOT)
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    os.chdir(ROOT)  # pages name configurations as a reader would
    from mosaic.cli import main as mosaic

    for name in options.settings:
        mosaic(SETTINGS[name].arguments(name, options.processes))


if __name__ == "__main__":
    main()
