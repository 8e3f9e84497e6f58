"""Every algorithm on the same partitions, seeds, network and budget: what README.md and docs/results.md report.

    python benchmarks/results.py run [--settings digits-0.05 ...] [--processes 2]
    python benchmarks/results.py table          # writes docs/results.md and README.md

Each setting is one `mosaic compare`, which leaves a small JSON file per run under benchmarks/results/ and does not run
it again, so an interrupted start goes on where it stopped.
"""

import argparse
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ablation_table import replace_blocks, table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "comparison"
SCRATCH = ROOT / "runs" / "comparison"
AVERAGING = ("fedavg", "fedprox", "fedrs", "fedvls", "fedbn", "prototype_head")
DISTILLING = ("mosaic", "dense", "co_boosting", "fedftg", "dfrd")
ENDS = ("local_only", "centralised")
EVERY = (*DISTILLING, *AVERAGING, *ENDS)
RELEASED = ("mosaic_paper+reduced", "dense_released", "fedftg_released")
"""At their own budgets. Mosaic's, of 200 epochs at width 64, would take half a day: its reduced one stands in."""


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
        wanted = (f"{algorithm}-seed{seed}.json" for algorithm in self.algorithms for seed in self.seeds)
        return all((RESULTS / name / "outcomes" / file).is_file() for file in wanted)


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
        *("digits", (), RELEASED, (0,), True),
    ),
    "digits-0.05-one-shot-released": Setting(
        "digits, Dirichlet 0.05, one round of 200 steps, released budgets, one seed",
        *("digits", (_ONE_SHOT,), RELEASED, (0,), True),
    ),
}
"""By priority."""


def accuracies(name: str) -> dict[str, list[float]]:
    """Return test accuracies by algorithm: of the global model, or else the mean over clients' own."""
    found: dict[str, list[float]] = {}
    for file in sorted((RESULTS / name / "outcomes").glob("*.json")):
        outcome = json.loads(file.read_text())
        summary = outcome["summary"]
        accuracy = summary["test_accuracy"] if summary["test_accuracy"] is not None else summary["own_test_accuracy"]
        found.setdefault(outcome["algorithm"], []).append(100 * accuracy)
    return found


def summary_table(names: Iterable[str]) -> list[str]:
    """Return a line for each algorithm and a column for each setting that is complete: mean test accuracy.

    The best method with one global model is in bold.
    """
    columns = {name: accuracies(name) for name in names if SETTINGS[name].is_complete(name)}
    means = {name: {row: sum(of) / len(of) for row, of in found.items()} for name, found in columns.items()}
    ends = {*ENDS, "fedbn"}
    best = {name: max((v for row, v in found.items() if row not in ends), default=0.0) for name, found in means.items()}
    lines = []
    for row in EVERY:
        if any(row in found for found in means.values()):
            texts = [_cell(means[name].get(row), best[name]) for name in means]
            lines.append([f"`{row}`{' *' if row in ('fedbn', 'local_only') else ''}", *texts])
    return table(["algorithm", *(SETTINGS[name].means for name in means)], lines)


def _cell(mean: float | None, best: float) -> str:
    if mean is None:
        return ""
    return f"**{mean:.2f}**" if mean == best else f"{mean:.2f}"


def pages(names: Iterable[str]) -> list[str]:
    """Return every setting's own tables."""
    lines: list[str] = []
    for name in names:
        page = RESULTS / name / "comparison.md"
        if page.is_file() and SETTINGS[name].is_complete(name):
            lines += [f"### {SETTINGS[name].means}", "", page.read_text().strip(), ""]
    return lines[:-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["run", "table"])
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS))
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    if options.command == "table":
        matched = [name for name, setting in SETTINGS.items() if not setting.own_budget]
        replace_blocks(ROOT / "docs" / "results.md", {"summary": summary_table(matched), "tables": pages(SETTINGS)})
        replace_blocks(ROOT / "README.md", {"comparison": summary_table(matched)})
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    os.chdir(ROOT)  # pages name configurations as a reader would
    from mosaic.cli import main as mosaic

    for name in options.settings:
        mosaic(SETTINGS[name].arguments(name, options.processes))


if __name__ == "__main__":
    main()
