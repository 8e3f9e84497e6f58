"""Partitioners of flwr-datasets, named by class path."""

import inspect
import os
import warnings
from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any

import numpy as np

from mosaic.data.partitions.base import Groups, Partition
from mosaic.errors import MosaicError, require_kinds


class FlowerPartition(Partition):
    """Split with a partitioner of flwr-datasets.

    Args:
        num_clients: N.
        partitioner: class path, for example ``flwr_datasets.partitioner.PathologicalPartitioner``.
        arguments: its other arguments; ``num_partitions``, ``partition_by`` (the label) and ``seed`` are filled in if
            the class takes them.
    """

    num_clients: int

    def __init__(self, num_clients: int, partitioner: str, arguments: dict[str, Any] | None = None) -> None:
        super().__init__(num_clients)
        require_kinds("data.partition", partitioner=(partitioner, str))
        self.partitioner, self.arguments = partitioner, dict(arguments or {})

    @property
    def origin(self) -> str:
        """Key and partitioner, for errors."""
        return f"data.partition ({self.partitioner})"

    def split(self, labels: np.ndarray, seed: int, groups: Groups) -> list[np.ndarray]:
        """Split with the partitioner on an in-memory table of index and label.

        The images are shuffled first. Partitioners deal them out in order: in a file sorted by writer or domain a
        client would get images that are alike.

        Raises:
            MosaicError: the class cannot be imported, or raises.
        """
        if self.num_clients > len(labels):
            raise MosaicError(
                f"data.partition.num_clients: expected at most {len(labels)}, one per image, got {self.num_clients}: "
                "lower it"
            )
        os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
        from datasets import Dataset

        try:
            factory: Callable[..., Any] = resolve_name(self.partitioner)
        except (ImportError, AttributeError, ValueError) as error:
            raise MosaicError(
                f"data.partition.partitioner: {self.partitioner!r} cannot be imported ({error}): "
                "expected a class path such as flwr_datasets.partitioner.PathologicalPartitioner"
            ) from error
        offered = {"num_partitions": self.num_clients, "partition_by": "label", "seed": seed}
        try:
            accepted = inspect.signature(factory).parameters
            rule = factory(**{**{key: value for key, value in offered.items() if key in accepted}, **self.arguments})
            order = np.random.default_rng(seed).permutation(len(labels))
            rule.dataset = Dataset.from_dict({"index": order, "label": labels[order]})
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a warning for each redraw
                parts = [rule.load_partition(client)["index"][:] for client in range(self.num_clients)]
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise MosaicError(
                f"data.partition: {self.partitioner} cannot split {len(labels)} images among "
                f"{self.num_clients} clients ({error}): change data.partition.init_args, or choose another partition"
            ) from error
        return [np.sort(np.asarray(part, dtype=np.int64)) for part in parts]
