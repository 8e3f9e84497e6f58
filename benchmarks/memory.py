"""Does a round need more memory when there are more clients, or a later round more than an early one?

Every measurement is a process of its own: it imports everything, remembers how much memory that takes, and then runs
one federation with a network of 2.2 million parameters, one local step of two images per client. What counts is the
peak of resident memory above the imports (Linux only). FedAvg, and Mosaic with one expert per class, whose averages are
folded as the uploads arrive; generators, gate and student are as small as they get.

    python benchmarks/memory.py [--clients 10 100 1000] [--rounds 50]
"""

import argparse
import contextlib
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

GROWTH_BAR = 1.2
"""Peak at the most clients over that at the fewest."""
ALGORITHMS = {
    "FedAvg": ("--algorithm=mosaic.algorithms.FedAvg",),
    "class experts": (
        "--algorithm=mosaic.algorithms.Mosaic",
        *("--algorithm.experts=class_average", "--algorithm.teacher=Prior"),
        *("--algorithm.generation=mosaic.generation.Adversarial", "--algorithm.generation.steps=1"),
        *("--algorithm.generation.width=2", "--algorithm.generation.batch_size=2"),
        *("--algorithm.generation.min_count=1", "--algorithm.generation.latent_dim=2"),
        *("--algorithm.distillation.steps=1", "--algorithm.distillation.batch_size=8"),
        "--algorithm.distillation.pool_size=64",
    ),
}


def resident(field: str) -> float:
    """Return resident memory of this process in MiB: ``VmRSS`` now, ``VmHWM`` at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def write_images(path: Path, clients: int) -> None:
    """Write so many 8x8 images that every client can have eight."""
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (8 * clients, 8, 8), dtype=np.uint8), np.arange(8 * clients) % 10
    np.savez(path, train_images=images, train_labels=labels, test_images=images[:50], test_labels=labels[:50])


def arguments(folder: Path, algorithm: str, clients: int, rounds: int) -> list[str]:
    """Return the command line of one federation."""
    return [
        *("fit", f"--federation.run_dir={folder / 'run'}", "--trainer.accelerator=cpu", "--trainer.devices=1"),
        *("--model.net=mosaic.nets.MLP", "--model.net.width=1450"),
        *("--data.source=mosaic.data.NpzSource", f"--data.source.path={folder / 'images.npz'}"),
        *("--data.partition=mosaic.data.FlowerPartition", f"--data.partition.num_clients={clients}"),
        *("--data.partition.partitioner=flwr_datasets.partitioner.IidPartitioner", "--data.batch_size=2"),
        *("--executor.threads=1", f"--federation.schedule.collaborative_rounds={rounds}"),
        *("--federation.schedule.fine_tune_rounds=0", "--federation.schedule.local_steps=1"),
        *("--federation.snapshot_every=100000", "--data.validation_share=0"),
        *ALGORITHMS[algorithm],
    ]


def measure(algorithm: str, clients: int, rounds: int) -> None:
    """Print the peak above the imports in MiB."""
    import torch

    from mosaic.cli.lightning import run
    from mosaic.cli.main import main as mosaic

    torch.zeros(2, 2) @ torch.zeros(2, 2)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images.npz", clients)
        with contextlib.redirect_stdout(io.StringIO()):
            mosaic([*arguments(folder, algorithm, 2, 1), "--trainer.fast_dev_run=true"])
            before = resident("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak that imports have reached
            run(arguments(folder, algorithm, clients, rounds))
    print(resident("VmHWM") - before)


def in_a_process(algorithm: str, clients: int, rounds: int) -> float:
    """Return what :func:`measure` prints in a fresh process."""
    command = [sys.executable, __file__, "--only", algorithm, "--clients", str(clients), "--rounds", str(rounds)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, nargs="*", default=[10, 100, 1000])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--only", choices=ALGORITHMS, help="measure this one in this process")
    options = parser.parse_args()
    if options.only:
        return measure(options.only, options.clients[0], options.rounds)
    few, many = min(options.clients), max(options.clients)
    table = Table("MiB above the imports", *(f"{n} clients" for n in options.clients), f"{many} over {few}", "")
    missed = False
    for algorithm in ALGORITHMS:
        peaks = {clients: in_a_process(algorithm, clients, 1) for clients in options.clients}
        ratio = peaks[many] / peaks[few]
        missed |= ratio > GROWTH_BAR
        shown = "holds" if ratio <= GROWTH_BAR else "MISSED"
        table.add_row(algorithm, *(f"{peak:.0f}" for peak in peaks.values()), f"{ratio:.2f} (bar {GROWTH_BAR})", shown)
    one, last = in_a_process("FedAvg", few, 10), in_a_process("FedAvg", few, options.rounds)
    missed |= last / one > GROWTH_BAR
    Console().print(table)
    shown = "holds" if last / one <= GROWTH_BAR else "MISSED"
    print(
        f"FedAvg, {few} clients: {last:.0f} MiB in {options.rounds} rounds, {one:.0f} in ten: {last / one:.2f} {shown}"
    )
    raise SystemExit(missed)


if __name__ == "__main__":
    main()
