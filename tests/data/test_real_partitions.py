"""Partitions of the real files in the folder that MOSAIC_DATA names."""

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mosaic.batches import ShuffledBatches
from mosaic.data import (
    DirichletPartition,
    FederatedDataModule,
    FlowerPartition,
    NaturalPartition,
    NpzSource,
    Partition,
)
from mosaic.nets import SmallCNN
from mosaic.nets.inference import predict, to_pixels

pytestmark = pytest.mark.skipif("MOSAIC_DATA" not in os.environ, reason="MOSAIC_DATA does not name the folder")
FILES = ("mnist.npz", "fashion_mnist.npz", "usps.npz", "digits3_domains.npz")


def path_of(file: str) -> str:
    return str(Path(os.environ["MOSAIC_DATA"]) / file)


def federation(file: str, rule: Partition, **settings: float) -> FederatedDataModule:
    data = FederatedDataModule(NpzSource(path_of(file)), rule, **settings)
    data.setup("fit")
    return data


def rules() -> list[Partition]:
    return [
        *(DirichletPartition(clients, 0.01) for clients in (10, 50, 100)),
        FlowerPartition(10, "flwr_datasets.partitioner.IidPartitioner"),
    ]


@pytest.mark.parametrize("rule", rules(), ids=["dirichlet 10", "dirichlet 50", "dirichlet 100", "iid"])
@pytest.mark.parametrize("file", [FILES[0], *(pytest.param(file, marks=pytest.mark.slow) for file in FILES[1:])])
def test_clients_hold_the_file_exactly_once_and_its_counts(file: str, rule: Partition) -> None:
    data = federation(file, rule)
    with np.load(path_of(file), allow_pickle=False) as arrays:
        truth, test = arrays["train_labels"], arrays["test_labels"]
    assert np.array_equal(np.sort(np.concatenate([*sum(data.splits, ())])), np.arange(len(truth)))
    held_out = np.concatenate([holding.validation for holding in data.splits])
    counts = data.class_counts.sum(0).numpy() + np.bincount(truth[held_out], minlength=10)
    assert counts.tolist() == [int((truth == label).sum()) for label in range(10)]
    assert np.array_equal(data.images.test.labels.numpy(), test)
    assert min(len(holding.train) + len(holding.validation) for holding in data.splits) >= 10


def test_one_domain_per_client() -> None:
    with np.load(path_of("digits3_domains.npz"), allow_pickle=False) as arrays:
        domains = arrays["train_domains"]
    for clients in (None, 3, 6):
        data = federation("digits3_domains.npz", NaturalPartition("domains", clients))
        each = (clients or 3) // 3
        owned = [np.unique(np.concatenate(holding)) for holding in data.splits]
        assert [np.unique(domains[indices]).tolist() for indices in owned] == [[i // each] for i in range(3 * each)]
        assert all(len(indices) == 4000 // each for indices in owned)


@pytest.mark.slow
def test_labels_survive_on_mnist() -> None:
    data = federation("mnist.npz", DirichletPartition(10, 100.0))
    blueprint = data.blueprint(partial(SmallCNN, width=16))
    net = blueprint.build(blueprint.initial(0))
    train, test = data.images.train, data.images.test
    indices = torch.cat([data.client(client).train for client in range(10)])
    batches = ShuffledBatches(train.pixels, train.labels, batch_size=64, steps=1500, seed=0, indices=indices)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=len(batches))
    net.train()
    for images, labels in batches:
        optimizer.zero_grad()
        F.cross_entropy(net(to_pixels(images)), labels).backward()
        optimizer.step()
        decay.step()
    guesses = predict(net, test.pixels, torch.device("cpu")).argmax(-1)
    accuracy = float((guesses == test.labels).float().mean())
    assert accuracy >= 0.97
