"""Label skew from Dirichlet distributions, with a repair where the draw leaves a client almost nothing."""

import logging
import math

import numpy as np

from mosaic.data.partitions.base import Groups, Partition
from mosaic.errors import MosaicError

log = logging.getLogger(__name__)


class DirichletPartition(Partition):
    """Label skew: the shares in which clients hold a class are drawn from a Dirichlet distribution (Hsu et al. 2019,
    arXiv 1909.06335).

    The draw is that of flwr-datasets' ``DirichletPartitioner``, number for number. Where it leaves a client with fewer
    than ``min_images``, images are moved there from the clients that hold most, and the log says how many.

    Args:
        num_clients: N.
        alpha: concentration; 0.1 is strong skew, 100 almost none.
        min_images: fewest images of a client, those to validate on among them; 0 keeps the draw as it is.
        self_balancing: stop dealing to clients that hold more than the average.
    """  # noqa: D205

    num_clients: int

    def __init__(self, num_clients: int, alpha: float, min_images: int = 10, self_balancing: bool = False) -> None:
        super().__init__(num_clients)
        if not 0 < alpha < math.inf:
            raise MosaicError(
                f"data.partition.alpha: expected a number above 0, got {alpha}: 0.05 skews strongly, 100 hardly at all"
            )
        if min_images < 0:
            raise MosaicError(
                f"data.partition.min_images: expected at least 0, got {min_images}: 0 keeps the draw as it is"
            )
        self.alpha, self.min_images, self.self_balancing = alpha, min_images, self_balancing

    def split(self, labels: np.ndarray, seed: int, groups: Groups) -> list[np.ndarray]:
        """Draw, then repair."""
        if self.num_clients * self.min_images > len(labels):
            raise MosaicError(
                f"data.partition: {self.num_clients} clients with at least {self.min_images} images each need "
                f"{self.num_clients * self.min_images} training images, got {len(labels)}: "
                "lower num_clients or min_images"
            )
        parts = dirichlet_split(labels, self.num_clients, self.alpha, seed, self.self_balancing)
        return fill_up(parts, self.min_images, seed)


def dirichlet_split(
    labels: np.ndarray, num_clients: int, alpha: float, seed: int, self_balancing: bool = False
) -> list[np.ndarray]:
    """Deal every class out in shares drawn from one symmetric Dirichlet distribution.

    **Deviation:** flwr-datasets' class gives the same parts, but takes seconds to import and to hand out the parts of
    1,000 clients, sums shares in a way that depends on the version of Python, and divides by zero where balancing
    leaves no share at all. There the class is dealt evenly to the clients that are not above the average.

    Args:
        labels: integer classes, shape ``(n,)``.
        num_clients: N.
        alpha: concentration, above 0.
        seed: of the order of the images, and of the draws.
        self_balancing: stop dealing to clients that hold more than ``n / N`` images.

    Returns:
        N sorted index arrays, some of them empty perhaps, that hold every index exactly once.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    random = np.random.default_rng(seed)
    sizes = np.zeros(num_clients, dtype=np.int64)
    dealt: list[list[np.ndarray]] = [[] for _ in range(num_clients)]
    for label in np.unique(labels):
        images = order[labels[order] == label]
        shares = random.dirichlet(np.full(num_clients, float(alpha)))
        if self_balancing:
            shares = _balanced(shares, sizes <= len(labels) / num_clients)
        cuts = (np.cumsum(shares) * len(images)).astype(np.int64)[:-1]
        for client, part in enumerate(np.split(images, cuts)):
            dealt[client].append(part)
            sizes[client] += len(part)
    return [np.sort(np.concatenate(parts)) for parts in dealt]


def _balanced(shares: np.ndarray, open_to_more: np.ndarray) -> np.ndarray:
    """Return the shares of the clients that may take more, summing to 1."""
    kept = np.where(open_to_more, shares, 0.0)
    total = np.cumsum(kept)[-1]  # from left to right, which np.sum and newer Pythons' sum are not
    if total == 0:
        kept, total = open_to_more.astype(float), float(open_to_more.sum())
    return np.asarray(kept / total)


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
            "partition: moved %d images from the largest clients to %d of %d clients so that each holds at least %d",
            missing_images,
            len(poor_clients),
            len(parts),
            min_images,
        )
    return [np.sort(part) for part in parts]
