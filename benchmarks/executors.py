"""How much faster are two workers of one thread than one?

FedAvg on the digits with ten clients runs serially with one thread and with two workers of one thread each, in turn.
What counts are the seconds of local training in every round but the first, as the run's own books have them: starting
processes is left out. Reported are medians over the pairs, and the ratio of neighbours in time, so that a machine that
slows down slows both. The runs must agree in every bit of the final model.

    python benchmarks/executors.py [--executors Ranks Ray] [--steps 20 100] [--pairs 3]
"""

import argparse
import contextlib
import io
import logging
import os
import statistics
import tempfile
from pathlib import Path

os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")

import torch
from rich.console import Console
from rich.table import Table
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mosaic.cli import main as mosaic

BAR = 1.5
CONFIG = Path(__file__).parent.parent / "configs" / "digits.yaml"
PLACE = "mosaic.federation.executors"


def run(folder: Path, name: str, steps: int, rounds: int) -> tuple[float, dict[str, torch.Tensor]]:
    """Return the median seconds of local training in a round, and the final model."""
    flags = [
        *("fit", f"--config={CONFIG}", "--algorithm=mosaic.algorithms.FedAvg", f"--federation.run_dir={folder}"),
        *(f"--federation.schedule.local_steps={steps}", "--federation.schedule.fine_tune_rounds=0"),
        *(f"--federation.schedule.collaborative_rounds={rounds}", f"--executor={PLACE}.{name}Executor"),
        "--executor.threads=1",
    ]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        mosaic(flags if name == "Serial" else [*flags, "--executor.workers=2"])
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    seconds = [event.value for event in events.Scalars("time/local training")][1:]
    return statistics.median(seconds), torch.load(folder / "global.ckpt", weights_only=True)["state_dict"]


def compare(name: str, steps: int, pairs: int, rounds: int) -> tuple[float, float, float]:
    """Return median seconds of the serial and the other executor, and the median of their ratios."""
    serial, parallel = [], []
    for _ in range(pairs):
        with tempfile.TemporaryDirectory() as folder:
            alone, ours = run(Path(folder) / "serial", "Serial", steps, rounds)
            together, theirs = run(Path(folder) / name, name, steps, rounds)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), "the executors disagree"
        serial.append(alone)
        parallel.append(together)
    ratios = [alone / together for alone, together in zip(serial, parallel, strict=True)]
    return statistics.median(serial), statistics.median(parallel), statistics.median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--executors", nargs="+", default=["Ranks"], choices=["Ranks", "Ray"])
    parser.add_argument("--steps", nargs="+", type=int, default=[20, 100])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    logging.getLogger("mosaic").setLevel(logging.ERROR)
    table = Table("executor", "steps per client", "serial, ms", "two workers, ms", "times as fast")
    for name in options.executors:
        for steps in options.steps:
            serial, parallel, ratio = compare(name, steps, options.pairs, options.rounds)
            table.add_row(name, str(steps), f"{1000 * serial:.0f}", f"{1000 * parallel:.0f}", f"{ratio:.2f}")
    console = Console()
    console.print(table)
    console.print(f"Bar: {BAR}. {os.cpu_count()} CPU cores, load {os.getloadavg()[0]:.1f}.")


if __name__ == "__main__":
    main()
