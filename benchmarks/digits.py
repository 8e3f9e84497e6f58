"""Mosaic against FedAvg on handwritten digits: same partition, network, rounds and local steps, paired over seeds.

    python benchmarks/digits.py [--seeds 0,1,2] [--alpha 0.05] [-- --any.dotted flag]

The seed moves partition and initialisation together. Finished runs under --runs are read and not run again.
"""

import argparse
import contextlib
import io
import json
import logging
import statistics
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mosaic.cli import main as mosaic

CONFIG = Path(__file__).parent.parent / "configs" / "digits.yaml"
ALGORITHMS = ("FedAvg", "Mosaic")


def result(algorithm: str, seed: int, alpha: float, runs: Path, flags: list[str]) -> dict[str, Any]:
    """Return the summary of one run, running it where it is not there yet."""
    run = runs / f"{algorithm}-alpha{alpha}-seed{seed}"
    if not (run / "summary.json").is_file():
        swap = ["--algorithm", f"mosaic.algorithms.{algorithm}"] if algorithm != "Mosaic" else []
        own = [f"--seed_everything={seed}", f"--data.seed={seed}", f"--data.partition.alpha={alpha}"]
        with contextlib.redirect_stdout(io.StringIO()):
            mosaic(["fit", "--config", str(CONFIG), *swap, *own, f"--federation.run_dir={run}", *flags])
    return json.loads((run / "summary.json").read_text())


def mean_and_error(values: list[float]) -> str:
    if len(values) < 2:
        return f"{100 * values[0]:.2f}"
    return f"{100 * statistics.mean(values):.2f} ± {100 * statistics.stdev(values) / len(values) ** 0.5:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-digits"))
    parser.add_argument("flags", nargs="*")
    options = parser.parse_args()
    logging.getLogger("mosaic").setLevel(logging.WARNING)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    summaries = {
        algorithm: [result(algorithm, seed, options.alpha, options.runs, options.flags) for seed in seeds]
        for algorithm in ALGORITHMS
    }
    final = {name: [summary["test_accuracy"] for summary in values] for name, values in summaries.items()}
    stages = {
        f"Mosaic: {stage}": [summary["stages"][stage] for summary in summaries["Mosaic"]]
        for stage in summaries["Mosaic"][0]["stages"]
        if not stage.startswith("expert")
    }
    table = Table("model", *(f"seed {seed}" for seed in seeds), "mean ± standard error")
    rows = {"FedAvg": final["FedAvg"], **stages, "Mosaic: final model": final["Mosaic"]}
    for name, values in rows.items():
        table.add_row(name, *(f"{100 * value:.2f}" for value in values), mean_and_error(values))
    gains = [ours - theirs for ours, theirs in zip(final["Mosaic"], final["FedAvg"], strict=True)]
    table.add_section()
    table.add_row("Mosaic - FedAvg", *(f"{100 * gain:+.2f}" for gain in gains), mean_and_error(gains))
    console = Console(width=110)
    rounds = summaries["FedAvg"][0]["rounds"]
    console.print(f"Test accuracy in % on digits, 10 clients, Dirichlet {options.alpha}, {rounds} rounds")
    console.print(table)


if __name__ == "__main__":
    main()
