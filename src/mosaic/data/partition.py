"""Who holds which training image."""

import importlib
import logging
import math
import os
import warnings
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from mosaic.errors import MosaicError

log = logging.getLogger(__name__)


class Partition(ABC):
    """A rule that deals training images out to clients.

    Args:
        num_clients: N, at least 1.
    """

    def __init__(self, num_clients: int) -> None:
        if num_clients < 1:
            raise MosaicError(f"data.partition.num_clients: expected at least 1, got {num_clients}")
        self.num_clients = num_clients

    @abstractmethod
    def split(self, labels: np.ndarray, seed: int) -> list[np.ndarray]:
        """Return the image indices of every client.

        Args:
            labels: integer classes of the training images, shape ``(n,)``.
            seed: of the draw; the same seed gives the same split on any machine.

        Returns:
            N sorted index arrays that together hold every index exactly once; rules of flwr-datasets may leave images
            out, which the log then says.

        Raises:
            MosaicError: the request is impossible for these labels.
        """


class FlowerPartition(Partition):
    """Any partitioner of flwr-datasets, by class path.

    Args:
        num_clients: N.
        partitioner: class path, for example ``flwr_datasets.partitioner.PathologicalPartitioner``.
        arguments: its other arguments; ``num_partitions``, ``partition_by`` (the label) and ``seed`` are filled in
            where the class takes them.
    """

    def __init__(self, num_clients: int, partitioner: str, arguments: dict[str, Any] | None = None) -> None:
        super().__init__(num_clients)
        self.partitioner, self.arguments = partitioner, dict(arguments or {})

    def split(self, labels: np.ndarray, seed: int) -> list[np.ndarray]:
        """Ask the partitioner."""
        parts = flower_split(self.partitioner, self.arguments, self.num_clients, labels, seed)
        if left_out := len(labels) - sum(map(len, parts)):
            log.warning("partition: %s dealt %d of %d images to nobody", self.partitioner, left_out, len(labels))
        return parts


class DirichletPartition(Partition):
    """Label skew: the shares in which clients hold a class are drawn from a Dirichlet distribution (Hsu et al. 2019,
    arXiv 1909.06335).

    The draw is flwr-datasets' ``DirichletPartitioner``. Where it leaves a client with fewer than ``min_images``, images
    are moved there from the clients that hold most, and the log says how many.

    Args:
        num_clients: N.
        alpha: concentration; 0.1 is strong skew, 100 almost none.
        min_images: fewest training images of a client.
        self_balancing: stop dealing to clients that hold more than the average.
    """  # noqa: D205

    def __init__(self, num_clients: int, alpha: float, min_images: int = 10, self_balancing: bool = False) -> None:
        super().__init__(num_clients)
        if not 0 < alpha < math.inf:
            raise MosaicError(
                f"data.partition.alpha: expected a number above 0, got {alpha}: 0.05 skews strongly, 100 hardly at all"
            )
        self.alpha, self.min_images, self.self_balancing = alpha, min_images, self_balancing

    def split(self, labels: np.ndarray, seed: int) -> list[np.ndarray]:
        """Draw, then repair."""
        if self.num_clients * self.min_images > len(labels):
            raise MosaicError(
                f"data.partition: {self.num_clients} clients with at least {self.min_images} images each need "
                f"{self.num_clients * self.min_images} training images, got {len(labels)}: "
                "lower num_clients or min_images"
            )
        arguments = {"alpha": self.alpha, "min_partition_size": 0, "self_balancing": self.self_balancing}
        name = "flwr_datasets.partitioner.DirichletPartitioner"
        parts = flower_split(name, arguments, self.num_clients, labels, seed)
        return fill_up(parts, self.min_images, seed)


def flower_split(
    partitioner: str, arguments: dict[str, Any], num_clients: int, labels: np.ndarray, seed: int
) -> list[np.ndarray]:
    """Deal images out with a partitioner of flwr-datasets, on an in-memory table of index and label.

    Images are put in random order first, because its rules deal them out as they come: a client would hold neighbours
    in the file, which are alike where the file is sorted by writer or domain.
    """
    if num_clients > len(labels):
        raise MosaicError(
            f"data.partition.num_clients: expected at most {len(labels)}, the number of training images, "
            f"got {num_clients}: lower it"
        )
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    import inspect

    from datasets import Dataset

    module, _, name = partitioner.rpartition(".")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise MosaicError(
            f"data.partition.partitioner: {partitioner!r} cannot be imported ({error}): "
            "expected a class path such as flwr_datasets.partitioner.PathologicalPartitioner"
        ) from error
    offered = {"num_partitions": num_clients, "partition_by": "label", "seed": seed}
    accepted = inspect.signature(factory).parameters
    try:
        rule = factory(**{**{key: value for key, value in offered.items() if key in accepted}, **arguments})
        order = np.random.default_rng(seed).permutation(len(labels))
        rule.dataset = Dataset.from_dict({"index": order, "label": labels[order]})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one warning for each redraw
            return [np.sort(np.asarray(rule.load_partition(i)["index"], dtype=np.int64)) for i in range(num_clients)]
    except (TypeError, ValueError, LookupError) as error:
        raise MosaicError(
            f"data.partition: {name} cannot split {len(labels)} images among {num_clients} clients as asked ({error}): "
            "change data.partition.init_args"
        ) from error


def fill_up(parts: list[np.ndarray], min_images: int, seed: int) -> list[np.ndarray]:
    """Move images from the largest clients to those that hold fewer than ``min_images``.

    Args:
        parts: N index arrays.
        min_images: fewest images of a client; ``N * min_images`` must not exceed the number of images.
        seed: decides which images move.

    Returns:
        N sorted index arrays; unchanged where every client holds enough.
    """
    random = np.random.default_rng(seed)
    parts = [np.array(part) for part in parts]
    moved = 0
    for poor in sorted(range(len(parts)), key=lambda i: len(parts[i])):
        while (missing := min_images - len(parts[poor])) > 0:
            rich = max(range(len(parts)), key=lambda i: len(parts[i]))
            count = min(missing, len(parts[rich]) - min_images)
            chosen = random.permutation(len(parts[rich]))
            parts[poor] = np.concatenate([parts[poor], parts[rich][chosen[:count]]])
            parts[rich] = parts[rich][chosen[count:]]
            moved += count
    if moved:
        log.info(
            "partition: moved %d images from the largest clients so that each holds at least %d", moved, min_images
        )
    return [np.sort(part) for part in parts]


def class_counts(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Count images per class, shape ``(C,)``; class 0 and absent classes included.

    >>> class_counts(np.array([2, 0, 2]), 4)
    array([1, 0, 2, 0])
    """
    return np.bincount(labels, minlength=num_classes)


def hold_out(
    labels: np.ndarray, indices: np.ndarray, share: float, seed: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Cut a client's validation images off its own, class by class.

    A class of n images gives ``floor(share * n)`` plus one with the probability of the rest, never its last image.

    Args:
        labels: classes of all training images.
        indices: the client's images.
        share: of the images to hold out, in ``[0, 1)``.
        seed: of the choice: the partition's seed and the client.

    Returns:
        Sorted indices to train on and to validate on.
    """
    random = np.random.default_rng(seed)
    held: list[np.ndarray] = []
    for label in np.unique(labels[indices]):
        mine = random.permutation(indices[labels[indices] == label])
        wanted = share * len(mine)
        count = int(wanted) + int(random.random() < wanted % 1)
        held.append(mine[: min(count, len(mine) - 1)])
    validation = np.sort(np.concatenate(held)) if held else np.empty(0, dtype=np.int64)
    return np.setdiff1d(indices, validation, assume_unique=True), validation
