"""Do mixed precision, channels-last and compiled networks cost accuracy?

Mosaic on the digits (Dirichlet 0.05, 13 rounds, generators of 200 steps), each switch on the same seeds: test accuracy
after every seed, and the difference from float32 with its paired standard error. Seconds tell nothing about GPUs, for
which these switches are made. Compiled phases start so slowly on a CPU that they get FedAvg of three rounds, one seed.

    python benchmarks/precision.py [--seeds 0 1 2]
"""

import argparse
import contextlib
import io
import json
import math
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

CONFIG = Path(__file__).parent.parent / "configs" / "digits.yaml"
MOSAIC = ("--algorithm.generation=mosaic.generation.Adversarial", "--algorithm.generation.steps=200")
FEDAVG = (
    *("--algorithm=mosaic.algorithms.FedAvg", "--federation.schedule.collaborative_rounds=3"),
    "--federation.schedule.fine_tune_rounds=0",
)
SWITCHES = {
    "bf16-mixed": ("--trainer.precision=bf16-mixed",),
    "channels last": ("--model.channels_last=true",),
    "both": ("--trainer.precision=bf16-mixed", "--model.channels_last=true"),
}


def accuracy(seed: int, flags: Sequence[str]) -> float:
    """Return the final test accuracy in per cent."""
    from mosaic.cli.lightning import run

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        seeds = (f"--seed_everything={seed}", f"--data.seed={seed}")
        run(["fit", f"--config={CONFIG}", f"--federation.run_dir={folder}/run", *seeds, *flags])
        return 100 * float(json.loads((Path(folder) / "run" / "summary.json").read_text())["test_accuracy"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    table = Table("switch", "test accuracy, %", "mean", "minus float32", "standard error")
    plain = [accuracy(seed, MOSAIC) for seed in options.seeds]
    table.add_row("float32", _list(plain), f"{statistics.mean(plain):.2f}", "", "")
    for name, flags in SWITCHES.items():
        found = [accuracy(seed, (*MOSAIC, *flags)) for seed in options.seeds]
        gaps = [one - other for one, other in zip(found, plain, strict=True)]
        error = statistics.stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.nan
        table.add_row(
            name, _list(found), f"{statistics.mean(found):.2f}", f"{statistics.mean(gaps):+.2f}", f"{error:.2f}"
        )
    table.add_section()
    for name, flags in {"float32": (), "compiled": ("--model.compile=true",)}.items():
        table.add_row(f"FedAvg, 3 rounds, {name}", f"{accuracy(0, (*FEDAVG, *flags)):.2f}", "", "", "")
    Console(width=120).print(table)


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


if __name__ == "__main__":
    main()
