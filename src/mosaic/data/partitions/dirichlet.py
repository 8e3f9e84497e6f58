"""Label skew from Dirichlet distributions, with a lower bound on the images per client."""

import logging

import numpy as np

from mosaic.data.partitions.base import Groups, Partition
from mosaic.errors import MosaicError, require_at_least_zero, require_positive

log = logging.getLogger(__name__)


class DirichletPartition(Partition):
    """Draw each class's shares per client from a Dirichlet distribution (Hsu et al. 2019, arXiv 1909.06335).

    The draw equals that of flwr-datasets' ``DirichletPartitioner``. If a client gets fewer than ``min_images``, images
    move to it from the largest clients; the log says how many.

    Args:
        num_clients: N.
        alpha: concentration; 0.1 is strong skew, 100 almost none.
        min_images: fewest images per client, validation images included; 0 keeps the draw unchanged.
        self_balancing: stop dealing to clients that hold more than the average.
    """

    num_clients: int

    def __init__(self, num_clients: int, alpha: float, min_images: int = 10, self_balancing: bool = False) -> None:
        super().__init__(num_clients)
        require_positive("data.partition", alpha=alpha)
        require_at_least_zero("data.partition", min_images=min_images)
        self.alpha, self.min_images, self.self_balancing = alpha, min_images, self_balancing

    def split(self, labels: np.ndarray, seed: int, groups: Groups) -> list[np.ndarray]:
        """Draw the parts, then fill up small clients."""
        if self.num_clients * self.min_images > len(labels):
            raise MosaicError(
                f"data.partition: {self.num_clients} clients with at least {self.min_images} images each need "
                f"{self.num_clients * self.min_images} training images, got {len(labels)}: lower min_images or "
                "num_clients"
            )
        parts = dirichlet_split(labels, self.num_clients, self.alpha, seed, self.self_balancing)
        return fill_up(parts, self.min_images, seed)


def dirichlet_split(
    labels: np.ndarray, num_clients: int, alpha: float, seed: int, self_balancing: bool = False
) -> list[np.ndarray]:
    """Deal out each class in shares from one symmetric Dirichlet distribution.

    **Deviation:** flwr-datasets' class gives the same parts, but takes seconds to import and to split 1,000 clients,
    sums shares differently in different versions of Python, and divides by zero if balancing leaves no share at all.
    In that case the class is dealt evenly to the clients that are not above the average, ``n / N`` images.

    Returns:
        N sorted index arrays, which hold every index of ``labels`` exactly once; some may be empty.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    random = np.random.default_rng(seed)
    sizes = np.zeros(num_clients, dtype=np.int64)
    dealt: list[list[np.ndarray]] = [[] for _ in range(num_clients)]
    for label in np.unique(labels):
        images = order[labels[order] == label]
        shares = random.dirichlet(np.full(num_clients, float(alpha)))
        if self_balancing:
            open_to_more = sizes <= len(labels) / num_clients
            shares = np.where(open_to_more, shares, 0.0)
            total = np.cumsum(shares)[-1]  # left to right, unlike np.sum and the sum of newer Pythons
            shares = shares / total if total else open_to_more / open_to_more.sum()
        cuts = (np.cumsum(shares) * len(images)).astype(np.int64)[:-1]
        for client, part in enumerate(np.split(images, cuts)):
            dealt[client].append(part)
            sizes[client] += len(part)
    return [np.sort(np.concatenate(parts)) for parts in dealt]


def fill_up(parts: list[np.ndarray], min_images: int, seed: int) -> list[np.ndarray]:
    """Move images from the largest clients to those that hold fewer than ``min_images``.

    The seed decides which images move. ``N * min_images`` must not exceed the number of images.
    """
    random = np.random.default_rng(seed)
    parts = [np.array(part) for part in parts]
    sizes = np.array([len(part) for part in parts])
    poor_clients = np.argsort(sizes, kind="stable")[: (sizes < min_images).sum()]
    missing_images = int((min_images - sizes[poor_clients]).sum())
    for poor in poor_clients:
        while (missing := min_images - sizes[poor]) > 0:
            rich = int(sizes.argmax())
            count = min(missing, sizes[rich] - min_images)
            chosen = random.permutation(sizes[rich])
            parts[poor] = np.concatenate([parts[poor], parts[rich][chosen[:count]]])
            parts[rich] = parts[rich][chosen[count:]]
            sizes[poor] += count
            sizes[rich] -= count
    if missing_images:
        log.info(
            "partition: moved %d images from the largest clients to %d of %d clients so that each holds at least %d, "
            "those to validate on included",
            *(missing_images, len(poor_clients), len(parts), min_images),
        )
    return [np.sort(part) for part in parts]
