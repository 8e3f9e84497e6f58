"""Partitioners of flwr-datasets by class path."""

import importlib
import inspect
import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from mosaic.data.partitions.base import Groups, Partition, check_enough_images
from mosaic.errors import MosaicError


class FlowerPartition(Partition):
    """Any partitioner of flwr-datasets, by class path.

    Args:
        num_clients: N.
        partitioner: class path, for example ``flwr_datasets.partitioner.PathologicalPartitioner``.
        arguments: its other arguments; ``num_partitions``, ``partition_by`` (the label) and ``seed`` are filled in
            where the class takes them.
    """

    num_clients: int

    def __init__(self, num_clients: int, partitioner: str, arguments: dict[str, Any] | None = None) -> None:
        super().__init__(num_clients)
        self.partitioner, self.arguments = partitioner, dict(arguments or {})

    @property
    def origin(self) -> str:
        """Key and partitioner, for errors."""
        return f"data.partition ({self.partitioner})"

    def split(self, labels: np.ndarray, seed: int, groups: Groups) -> list[np.ndarray]:
        """Ask the partitioner."""
        return flower_split(self.partitioner, self.arguments, self.num_clients, labels, seed)


def flower_split(
    partitioner: str, arguments: dict[str, Any], num_clients: int, labels: np.ndarray, seed: int
) -> list[np.ndarray]:
    """Deal images out with a partitioner of flwr-datasets, on an in-memory table of index and label.

    Images are put in random order first, because its rules deal them out as they come: a client would hold neighbours
    in the file, which are alike where the file is sorted by writer or domain.

    Raises:
        MosaicError: the class cannot be imported, or refuses.
    """
    check_enough_images(num_clients, len(labels))
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    from datasets import Dataset

    factory = _import_partitioner(partitioner)
    offered = {"num_partitions": num_clients, "partition_by": "label", "seed": seed}
    accepted = inspect.signature(factory).parameters
    try:
        rule = factory(**{**{key: value for key, value in offered.items() if key in accepted}, **arguments})
        order = np.random.default_rng(seed).permutation(len(labels))
        rule.dataset = Dataset.from_dict({"index": order, "label": labels[order]})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one warning for each redraw
            parts = [rule.load_partition(client)["index"][:] for client in range(num_clients)]
    except (TypeError, ValueError, LookupError) as error:
        raise MosaicError(
            f"data.partition: {partitioner.rpartition('.')[2]} cannot split {len(labels)} images among {num_clients} "
            f"clients as asked ({error}): change data.partition.init_args, or choose another data.partition"
        ) from error
    return [np.sort(np.asarray(part, dtype=np.int64)) for part in parts]


def _import_partitioner(partitioner: str) -> Callable[..., Any]:
    module, _, name = partitioner.rpartition(".")
    try:
        factory: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise MosaicError(
            f"data.partition.partitioner: {partitioner!r} cannot be imported ({error}): "
            "expected a class path such as flwr_datasets.partitioner.PathologicalPartitioner"
        ) from error
    return factory
