"""What does a run gain by keeping freed memory (keep_freed_memory in mosaic/training/tuning.py)?

Short runs of Mosaic on 10,000 MNIST images alternate with and without it, each in its own process (Linux only).

    MOSAIC_DATA=... python benchmarks/kept_memory.py [--pairs 3]
"""

import argparse
import contextlib
import io
import json
import logging
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

CONFIGS = Path(__file__).parent.parent / "configs"
SHORT = (
    *("--data.partition.alpha=0.05", "--executor.threads=1"),
    *("--federation.schedule.collaborative_rounds=2", "--federation.schedule.fine_tune_rounds=0"),
    *("--federation.schedule.local_steps=20", "--algorithm.generation=Adversarial"),
    "--algorithm.generation.steps=60",
    *("--algorithm.distillation.steps=60", "--algorithm.distillation.pool_size=1024"),
)
Run = dict[str, float]


def measure(keep: bool) -> Run:
    """Return the figures of a run in a fresh process."""
    command = [sys.executable, __file__, "--measure", *(["--keep"] if keep else [])]
    found: Run = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return found


def run(keep: bool) -> Run:
    """Return the figures of a run in this process."""
    from mosaic.cli.main import main as mosaic
    from mosaic.training import tuning

    if not keep:
        tuning.keep_freed_memory = lambda: False
    logging.getLogger("mosaic").setLevel(logging.ERROR)
    configs = [f"--config={CONFIGS / name}" for name in ("mnist.yaml", "data/mnist_part.yaml")]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        mosaic(["fit", *configs, *SHORT, f"--federation.run_dir={folder}/run"])
        seconds = json.loads((Path(folder) / "run" / "summary.json").read_text())["seconds"]
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        **{f"{phase}, s": value for phase, value in seconds.items() if value > 0.5},
        "all phases, s": sum(seconds.values()),
        "page faults, thousands": used.ru_minflt / 1000,
        "peak of resident memory, MiB": used.ru_maxrss / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(run(options.keep)))
        return
    pairs = [(measure(False), measure(True)) for _ in range(options.pairs)]
    table = Table("medians", "given back", "kept", "ratio")
    for name in (name for name in pairs[0][0] if all(name in run for pair in pairs for run in pair)):
        given, kept = (statistics.median(pair[side][name] for pair in pairs) for side in (0, 1))
        ratio = statistics.median(pair[1][name] / pair[0][name] for pair in pairs)
        table.add_row(name, f"{given:.1f}", f"{kept:.1f}", f"{ratio:.2f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
