"""Partitions that the data bring along: by domain, by writer, by hospital."""

import logging

import numpy as np

from mosaic.data.partitions.base import Groups, Partition
from mosaic.errors import MosaicError

log = logging.getLogger(__name__)


class NaturalPartition(Partition):
    """Feature shift: clients hold images of one domain, writer or whatever else the source knows of each image.

    With as many clients as groups, client i holds the i-th group in sorted order. With more, every group is dealt
    evenly to as many clients as any other, the largest groups to one more where the numbers do not divide; no client
    mixes groups. With fewer, whole groups are merged, each going to the client that holds fewest images by then, the
    largest group first; no group is cut.

    Args:
        key: which of the source's groups, such as ``domains`` for the array ``train_domains`` of an npz file.
        num_clients: N; as many as there are groups when not given.
    """

    def __init__(self, key: str, num_clients: int | None = None) -> None:
        super().__init__(num_clients)
        self.key = key

    def split(self, labels: np.ndarray, seed: int, groups: Groups) -> list[np.ndarray]:
        """Sort images by group, then cut groups or merge them.

        Raises:
            MosaicError: the source does not know this key, or a group is too small to be cut.
        """
        values = self._values(groups)
        names, numbers = np.unique(values, return_inverse=True)
        random = np.random.default_rng(seed)
        members = [np.flatnonzero(numbers == group) for group in range(len(names))]
        num_clients = self.num_clients or len(names)
        log.info("partition: %d groups by %s for %d clients", len(names), self.key, num_clients)
        if num_clients < len(names):
            return merge_groups(members, num_clients, random)
        shares = clients_per_group([len(indices) for indices in members], num_clients)
        for name, indices, share in zip(names, members, shares, strict=True):
            if share > len(indices):
                raise MosaicError(
                    f"data.partition: expected at least {share} images in every group by {self.key} for {num_clients} "
                    f"clients, got {len(indices)} in group {name}: lower num_clients, or leave it out to give each of "
                    f"{len(names)} groups one client"
                )
        return [part for indices, share in zip(members, shares, strict=True) for part in cut(indices, share, random)]

    def _values(self, groups: Groups) -> np.ndarray:
        if self.key not in groups:
            known = f"one of {sorted(groups)}" if groups else "a source that knows groups, and this one knows none"
            raise MosaicError(
                f"data.partition.key: expected {known}, got {self.key!r}: npz files keep groups as train_KEY beside "
                "train_images, and other sources name columns with group_columns; or choose another data.partition"
            )
        values = np.asarray(groups[self.key])
        return values.astype(str) if values.dtype == object else values


def clients_per_group(sizes: list[int], num_clients: int) -> list[int]:
    """Return how many clients share each group: equally many, the largest groups taking what is left over.

    >>> clients_per_group([5, 9, 9], 7)
    [2, 3, 2]
    """
    each, left_over = divmod(num_clients, len(sizes))
    largest_first = np.argsort(-np.array(sizes), kind="stable")
    shares = np.full(len(sizes), each)
    shares[largest_first[:left_over]] += 1
    return [int(share) for share in shares]


def cut(indices: np.ndarray, num_parts: int, random: np.random.Generator) -> list[np.ndarray]:
    """Cut a group at random into parts whose sizes differ by one image at most."""
    return [np.sort(part) for part in np.array_split(random.permutation(indices), num_parts)]


def merge_groups(members: list[np.ndarray], num_clients: int, random: np.random.Generator) -> list[np.ndarray]:
    """Give whole groups to clients, the largest first, each to the client with fewest images by then.

    Args:
        members: indices of every group, more groups than clients.
        num_clients: N.
        random: decides between groups of equal size.

    Returns:
        N sorted index arrays.
    """
    shuffled = random.permutation(len(members))
    largest_first = shuffled[np.argsort([-len(members[group]) for group in shuffled], kind="stable")]
    sizes = np.zeros(num_clients, dtype=np.int64)
    dealt: list[list[np.ndarray]] = [[] for _ in range(num_clients)]
    for group in largest_first:
        client = int(sizes.argmin())
        dealt[client].append(members[group])
        sizes[client] += len(members[group])
    return [np.sort(np.concatenate(parts)) for parts in dealt]
