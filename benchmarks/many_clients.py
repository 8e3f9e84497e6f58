"""What does it take to set up 1,000 clients on 60,000 images?

The labels and pixels are those of ``mnist.npz`` in the folder that MOSAIC_DATA names, else random ones of that size.
They are loaded first; then partition and data module are set up as ``mosaic fit`` does, once in a fresh process for
each partition, and the peak of the process's memory is set against what it held before (Linux only).

    python benchmarks/many_clients.py [--clients 1000]
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from mosaic.data import (
    DirichletPartition,
    FederatedDataModule,
    FlowerPartition,
    NaturalPartition,
    NpzSource,
    Partition,
    Source,
)
from mosaic.data.images import Images, ImageSet

SECONDS_BAR, GIB_BAR = 5.0, 1.0
PARTITIONS = ("dirichlet 0.01", "dirichlet 0.1", "dirichlet 1.0", "iid (flwr-datasets)", "by writer")


class InMemory(Source):
    """Images that are loaded before the clock starts, with 3,500 writers."""

    def __init__(self, images: ImageSet) -> None:
        writers = np.random.default_rng(1).integers(0, 3500, len(images.train))
        train = Images(images.train.pixels, images.train.labels, {"writers": writers})
        self.images = ImageSet(train, images.test, images.class_names)

    def load(self) -> ImageSet:
        """Return them."""
        return self.images


def load() -> ImageSet:
    folder = os.environ.get("MOSAIC_DATA")
    if folder and (file := Path(folder) / "mnist.npz").is_file():
        return NpzSource(str(file)).load()
    random = np.random.default_rng(0)
    parts = [
        Images(
            torch.from_numpy(random.integers(0, 256, (n, 1, 28, 28), dtype=np.uint8)),
            torch.from_numpy(random.integers(0, 10, n)),
        )
        for n in (60_000, 10_000)
    ]
    return ImageSet(parts[0], parts[1], tuple("0123456789"))


def partition(name: str, clients: int) -> Partition:
    match name.split():
        case ["dirichlet", alpha]:
            return DirichletPartition(clients, float(alpha))
        case ["by", _]:
            return NaturalPartition("writers", clients)
        case _:
            return FlowerPartition(clients, "flwr_datasets.partitioner.IidPartitioner")


def memory_gib(field: str) -> float:
    """Return the resident memory of this process, ``VmRSS`` now or ``VmHWM`` at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 2**20


def set_up(name: str, clients: int) -> None:
    """Print seconds and GiB."""
    source = InMemory(load())
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak that loading the file has reached
    before = memory_gib("VmRSS")
    start = time.perf_counter()
    data = FederatedDataModule(source, partition(name, clients))
    data.setup("fit")
    owned = [data.client(client) for client in range(data.num_clients)]
    seconds = time.perf_counter() - start
    assert sum(len(own.train) + len(own.validation) for own in owned) == len(source.images.train)
    print(seconds, memory_gib("VmHWM") - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--only", choices=PARTITIONS, help="measure this one in this process")
    options = parser.parse_args()
    if options.only:
        return set_up(options.only, options.clients)
    table = Table("partition", f"seconds (bar {SECONDS_BAR:.0f})", f"GiB above the data (bar {GIB_BAR:.0f})", "")
    missed = False
    for name in PARTITIONS:
        command = [sys.executable, __file__, "--clients", str(options.clients), "--only", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds, gib = map(float, done.stdout.split())
        holds = seconds < SECONDS_BAR and gib < GIB_BAR
        missed |= not holds
        table.add_row(name, f"{seconds:.2f}", f"{gib:.3f}", "holds" if holds else "MISSED")
    Console().print(table)
    raise SystemExit(missed)


if __name__ == "__main__":
    main()
