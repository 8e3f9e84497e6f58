"""What does a phase cost compared with a bare PyTorch loop?

One process alternates the same local training (net, batches, steps) through the phase runner, in a bare loop, and
through a stock quiet Trainer. It reports medians over the rounds and the ratio of neighbours in time, so that a machine
that slows down slows all three. ``MOSAIC_TUNING=off`` measures the phase runner without mosaic/training/tuning.py.

    python benchmarks/phase_overhead.py [--pairs 9] [--threads 1]
"""

import argparse
import logging
import warnings
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from lightning.pytorch import Trainer
from measuring import Figure, Seconds, in_turn, medians, ratio, show
from torch.nn import functional as F
from torch.optim import SGD

from mosaic.batches import ShuffledBatches
from mosaic.nets import Classifier, ResNet18, SmallCNN
from mosaic.nets.inference import to_pixels
from mosaic.tasks.classification import ClassificationTask
from mosaic.training.phases import PhaseRunner, many_phases

logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", message="`isinstance")
CPU = PhaseRunner({"accelerator": "cpu", "devices": 1})


def cross_entropy(net: Classifier, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(net(images), labels)


def task_for(net: Classifier) -> ClassificationTask:
    return ClassificationTask(net, cross_entropy, partial(SGD, lr=0.01), 0.01, view=to_pixels)


def phase(net: Classifier, batches: ShuffledBatches, phases: PhaseRunner) -> None:
    phases.run(task_for(net), batches, seed=0)


def stock(net: Classifier, batches: ShuffledBatches, phases: PhaseRunner) -> None:
    trainer = Trainer(
        accelerator="cpu" if phases.device.type == "cpu" else "gpu",
        devices=1,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(task_for(net), batches)


def bare(net: Classifier, batches: ShuffledBatches, phases: PhaseRunner) -> None:
    device = phases.device
    net.to(device).to(memory_format=torch.channels_last if phases.channels_last else torch.contiguous_format)
    optimizer = SGD(net.parameters(), lr=0.01)
    for images, labels in batches:
        with phases.precision():
            loss = cross_entropy(net, to_pixels(images.to(device)), labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    net.cpu()


def measure(net: Classifier, batch_size: int, steps: int, pairs: int, phases: PhaseRunner = CPU) -> Seconds:
    """Return seconds of every variant in every round."""
    images = torch.randint(256, (10 * batch_size, *net.image_shape), dtype=torch.uint8)
    labels = torch.randint(net.num_classes, (len(images),))
    small = net.image_shape[1] < 32

    def batches(steps: int) -> ShuffledBatches:
        return ShuffledBatches(images, labels, batch_size=batch_size, steps=steps, seed=0)

    variants = {"bare": bare, "phase": phase, "stock Trainer": stock}
    for run in variants.values():  # the first twenty Trainers of a process are slower than the thousands after them
        for _ in range(20 if small else 1):
            run(net, batches(min(steps, 10)), phases)
    repeats = max(1, 100 // steps) if small else 1  # a phase of 10 steps is over too soon to be timed alone
    calls = {name: partial(run, net, batches(steps), phases) for name, run in variants.items()}
    return in_turn(calls, pairs, repeats, around)


def around(name: str) -> AbstractContextManager[None]:
    """Return what surrounds the phases of a run, for variants that are phases."""
    return many_phases() if name.startswith("phase") else nullcontext()


def figures(pairs: int) -> list[Figure]:
    """Return time through the phase runner over that of a bare loop."""
    cases = {
        "a phase of 10 steps, digits CNN": (SmallCNN((1, 8, 8), 10), 32, 10, 1.30),
        "a phase of 100 steps, digits CNN": (SmallCNN((1, 8, 8), 10), 32, 100, 1.12),
        "a phase of 2 steps, ResNet-18": (ResNet18((3, 32, 32), 10), 64, 2, 1.03),
    }
    found = []
    for name, (net, batch_size, steps, bar) in cases.items():
        seconds = measure(net, batch_size, steps, pairs)
        over = ratio(seconds, "phase", "bare")
        found.append(Figure(f"(a) {name}, over a bare loop", over, bar, True, medians(seconds)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    raise SystemExit(not show(figures(options.pairs)))


if __name__ == "__main__":
    main()
