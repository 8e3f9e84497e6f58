"""How long does a command take until it answers, and `mosaic fit` until its first training step?

Every command starts in a process of its own, as from a shell; the median of some starts after one that warms the disk's
cache. `fit` runs FedAvg on the digits and is ended at its first training step. With ``--source`` the package of another
checkout is measured, for a comparison of before and after.

    python benchmarks/start_up.py [--times 5] [--source ../older/src]
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
PROGRAM = "import sys; from mosaic.cli.main import main; sys.exit(main(sys.argv[1:]))"
BARS = {"--version": 1.0, "compare --help": 1.0, "report --help": 1.0}
"""Seconds that a command may take."""


def fit(folder: str) -> list[str]:
    """Return the command line of a run that ends at its first training step."""
    return [
        *("fit", f"--config={ROOT / 'configs' / 'digits.yaml'}", f"--federation.run_dir={folder}/run"),
        *("--algorithm=mosaic.algorithms.FedAvg", "--trainer.callbacks=mosaic_start_up_stop.Stop"),
    ]


STOP = """
import os
from lightning.pytorch import Callback

class Stop(Callback):
    def on_train_batch_start(self, *_):
        os._exit(0)
"""


def seconds(arguments: list[str], source: Path, extra: str) -> float:
    """Return how long one start takes."""
    environment = {**os.environ, "PYTHONPATH": f"{source}{os.pathsep}{extra}", "OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--source", type=Path, default=ROOT / "src")
    parser.add_argument("--only", nargs="+", choices=[*BARS, "fit"], default=[*BARS, "fit"])
    options = parser.parse_args()
    table, missed = Table("command", "seconds", "bar", ""), False
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "mosaic_start_up_stop.py").write_text(STOP)
        for name in options.only:
            taken = []
            for number in range(options.times + 1):
                arguments = fit(f"{folder}/{number}") if name == "fit" else name.split()
                (Path(folder) / str(number)).mkdir(exist_ok=True)
                taken.append(seconds(arguments, options.source.resolve(), folder))
            median, bar = statistics.median(taken[1:]), BARS.get(name)
            missed |= bar is not None and median > bar
            verdict = "" if bar is None else "holds" if median <= bar else "MISSED"
            title = "fit, to the first training step" if name == "fit" else name
            table.add_row(f"mosaic {title}", f"{median:.2f}", "" if bar is None else f"{bar:.2f}", verdict)
    Console().print(table)
    raise SystemExit(missed)


if __name__ == "__main__":
    main()
