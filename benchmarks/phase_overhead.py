"""What does a phase cost beside a bare PyTorch loop?

The same local training (same net, same batches, same steps) runs through the phase runner, as a bare loop, and through
a stock quiet Trainer on the same module, in turn and in one process. Reported are medians over the pairs, and the ratio
of neighbours in time, so that a machine that slows down slows all three.

    python benchmarks/phase_overhead.py [--pairs 7] [--threads 2]
"""

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from lightning.pytorch import Trainer
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F
from torch.optim import SGD

from mosaic.batches import ShuffledBatches
from mosaic.nets import Classifier, ResNet18, SmallCNN
from mosaic.nets.inference import to_pixels
from mosaic.phases import PhaseRunner, many_phases
from mosaic.tasks.classification import ClassificationTask

logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message="`isinstance")
PHASES = PhaseRunner({"accelerator": "cpu", "devices": 1})


def cross_entropy(net: Classifier, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(net(images), labels)


def task_for(net: Classifier) -> ClassificationTask:
    return ClassificationTask(net, cross_entropy, partial(SGD, lr=0.01), 0.01, view=to_pixels)


def phase(net: Classifier, batches: ShuffledBatches) -> None:
    PHASES.run(task_for(net), batches, seed=0)


def stock(net: Classifier, batches: ShuffledBatches) -> None:
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(task_for(net), batches)


def bare(net: Classifier, batches: ShuffledBatches) -> None:
    optimizer = SGD(net.parameters(), lr=0.01)
    for images, labels in batches:
        loss = cross_entropy(net, to_pixels(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def measure(net: Classifier, side: int, batch_size: int, steps: int, pairs: int) -> dict[str, list[float]]:
    """Return seconds of every variant in every pair."""
    images = torch.randint(256, (10 * batch_size, *net.image_shape[:1], side, side), dtype=torch.uint8)
    labels = torch.randint(net.num_classes, (len(images),))
    batches = ShuffledBatches(images, labels, batch_size=batch_size, steps=steps, seed=0)
    variants: dict[str, Callable[[Classifier, ShuffledBatches], None]] = {"bare": bare, "phase": phase, "stock": stock}
    for run in variants.values():  # the first twenty Trainers of a process are slower than the thousands after them
        for _ in range(20 if side < 32 else 1):
            run(net, ShuffledBatches(images, labels, batch_size=batch_size, steps=min(steps, 10), seed=0))
    repeats = max(1, 100 // steps) if side < 32 else 1  # a phase of 10 steps is over too soon to be timed alone
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for pair in range(pairs):
        names = list(variants)
        for name in names[pair % 3 :] + names[: pair % 3]:
            run = variants[name]
            with many_phases() if name == "phase" else nullcontext():
                start = time.perf_counter()
                for _ in range(repeats):
                    run(net, batches)
                seconds[name].append((time.perf_counter() - start) / repeats)
    return seconds


def ratio(seconds: dict[str, list[float]], one: str, other: str) -> float:
    return statistics.median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console = Console()
    cases = {
        "digits 10": (SmallCNN((1, 8, 8), 10), 8, 32, 10),
        "digits 100": (SmallCNN((1, 8, 8), 10), 8, 32, 100),
        "ResNet-18 2": (ResNet18((3, 32, 32), 10), 32, 64, 2),
    }
    table = Table("steps", "bare", "phase runner", "stock Trainer", "phase / bare", "phase / stock")
    results = {}
    for name, (net, side, batch, steps) in cases.items():
        seconds = results[name] = measure(net, side, batch, steps, options.pairs)
        medians = [f"{1000 * statistics.median(seconds[variant]):.1f} ms" for variant in ("bare", "phase", "stock")]
        table.add_row(
            name, *medians, f"{ratio(seconds, 'phase', 'bare'):.3f}", f"{ratio(seconds, 'phase', 'stock'):.3f}"
        )
    console.print(table)
    extra = [
        statistics.median(a - b for a, b in zip(results[name]["phase"], results[name]["bare"], strict=True))
        for name in list(cases)[:2]
    ]
    per_step = (extra[1] - extra[0]) / 90
    per_phase = extra[0] - 10 * per_step
    bars = {
        "fixed cost of a phase [ms]": (1000 * per_phase, 15.0),
        "cost of a step above the bare loop [ms]": (1000 * per_step, 2.0),
        "ResNet-18, phase / bare": (ratio(results["ResNet-18 2"], "phase", "bare"), 1.05),
        "digits CNN, 10 steps, phase / stock": (ratio(results["digits 10"], "phase", "stock"), 1.05),
        "digits CNN, 100 steps, phase / stock": (ratio(results["digits 100"], "phase", "stock"), 1.05),
        "ResNet-18, phase / stock": (ratio(results["ResNet-18 2"], "phase", "stock"), 1.05),
    }
    verdicts = Table("figure", "measured", "bar", "")
    for name, (value, bar) in bars.items():
        verdicts.add_row(name, f"{value:.3f}", f"{bar:.2f}", "holds" if value <= bar else "MISSED")
    console.print(verdicts)
    raise SystemExit(any(value > bar for value, bar in bars.values()))


if __name__ == "__main__":
    main()
