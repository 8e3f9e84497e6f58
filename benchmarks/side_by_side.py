"""How much faster are small networks trained in lockstep than one after another?

One epoch of FedAvg among twenty clients of 500 images of 28x28 each, a 784-200-10 network, batches of 10: a step
computes little, so that what surrounds it counts. Variants take turns: a loop as published simulators have it, which
trains one client after another with a ``DataLoader`` and ``SGD``; the package's serial executor; and the lockstep.
Counted are CPU seconds of local training in a round: with one thread nothing else is at work, and a machine with other
work does not spoil them. The products of matrices alone take more than a quarter of the loop's time, so no lockstep on
a CPU is four times as fast.

    python benchmarks/side_by_side.py [--pairs 3] [--rounds 6] [--clients 10]
"""

import argparse
import contextlib
import io
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")

import torch
from measuring import Figure, Seconds, medians, ratio, show
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

import mosaic
from executors import training_seconds
from mosaic.data import from_datasets
from mosaic.executors import ClientExecutor, SerialExecutor, SideBySideExecutor
from mosaic.nets.blueprint import ClassifierFactory
from mosaic.nets.classifier import Classifier, ImageShape

CLIENTS, IMAGES, BATCH, RATE = 20, 500, 10, 0.005


class TwoLayers(Classifier):
    """784-200-10, the network of many a benchmark on MNIST."""

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(image_shape, num_classes)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(784, 200), nn.ReLU())
        self.head = nn.Linear(200, num_classes)


def datasets(clients: int = CLIENTS, shape: ImageShape = (1, 28, 28)) -> list[TensorDataset]:
    """Return images and labels of every client; what they show does not change the speed."""
    random = torch.Generator().manual_seed(0)
    images = torch.rand(clients, IMAGES, *shape, generator=random)
    labels = torch.randint(0, 10, (clients, IMAGES), generator=random)
    return [TensorDataset(*own) for own in zip(images, labels, strict=True)]


def loop(sets: list[TensorDataset], rounds: int) -> float:
    """Return the CPU seconds of a round of the loop, without its first."""
    net, seconds = TwoLayers((1, 28, 28), 10), []
    model = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for _ in range(rounds):
        start, uploads = time.process_time(), []
        for own in sets:
            net.load_state_dict(model)
            optimizer = SGD(net.parameters(), lr=RATE)
            for images, labels in DataLoader(own, BATCH, shuffle=True, drop_last=True):
                loss = cross_entropy(net(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            uploads.append({name: tensor.clone() for name, tensor in net.state_dict().items()})
        model = {name: torch.stack([each[name] for each in uploads]).mean(0) for name in model}
        seconds.append(time.process_time() - start)
    return statistics.median(seconds[1:])


def ours(executor: ClientExecutor, sets: list[TensorDataset], rounds: int) -> float:
    """Return the CPU seconds of a round with one of the package's executors, without its first."""
    schedule = mosaic.Schedule(collaborative_rounds=rounds, fine_tune_rounds=0, local_epochs=1.0, learning_rate=RATE)
    return statistics.median(seconds_of_rounds(executor, sets, schedule, TwoLayers, BATCH))


def seconds_of_rounds(
    executor: ClientExecutor,
    sets: list[TensorDataset],
    schedule: mosaic.Schedule,
    net: ClassifierFactory,
    batch_size: int,
    trainer: Mapping[str, Any] | None = None,
    clock: Callable[[], float] = time.process_time,
    cuda_graphs: bool = False,
) -> list[float]:
    """Run FedAvg, and return the seconds of local training in every round but the first."""
    data = from_datasets(sets, test=sets[0], batch_size=batch_size, validation_share=0.0)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        federation = mosaic.Federation(f"{folder}/run", schedule, judging=False)
        with contextlib.redirect_stderr(io.StringIO()), training_seconds(type(executor), clock) as noted:
            federation.fit(net, data, mosaic.algorithms.FedAvg(), trainer, executor=executor, cuda_graphs=cuda_graphs)
    return noted[1:]


def figures(pairs: int, rounds: int = 6, clients: int = 10) -> list[Figure]:
    """Return how many times as fast the lockstep is."""
    torch.set_num_threads(1)
    logging.getLogger("mosaic").setLevel(logging.ERROR)
    sets = datasets()
    seconds: Seconds = {"loop": [], "serial": [], "side by side": []}
    for _ in range(pairs):
        seconds["loop"].append(loop(sets, rounds))
        seconds["serial"].append(ours(SerialExecutor(threads=1), sets, rounds))
        seconds["side by side"].append(ours(SideBySideExecutor(threads=1, clients_at_once=clients), sets, rounds))
    bars = {"loop": 1.0, "serial": 1.3}
    return [
        Figure(
            f"(g) 20 clients, 784-200-10, batches of 10, {other} over side by side",
            *(ratio(seconds, other, "side by side"), bar, False, medians(seconds)),
        )
        for other, bar in bars.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--clients", type=int, default=10)
    options = parser.parse_args()
    raise SystemExit(not show(figures(options.pairs, options.rounds, options.clients)))


if __name__ == "__main__":
    main()
