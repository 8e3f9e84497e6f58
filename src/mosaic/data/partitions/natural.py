"""Partitions by a property of the images, such as domain, writer or hospital."""

import logging

import numpy as np

from mosaic.data.partitions.base import Groups, Partition
from mosaic.errors import MosaicError, require_kinds

log = logging.getLogger(__name__)


class NaturalPartition(Partition):
    """Split by group, such as domain or writer, to create feature shift.

    With as many clients as groups, client i holds the i-th group in sorted order. With more clients, each group is
    divided evenly among equally many clients; if the numbers do not divide, the largest groups get one client more. No
    client mixes groups. With fewer clients, whole groups are merged: the largest group first, each goes to the client
    that holds the fewest images so far.

    Args:
        key: name of the source's groups, such as ``domains`` for the array ``train_domains`` of an npz file.
        num_clients: N; the number of groups by default.
    """

    def __init__(self, key: str, num_clients: int | None = None) -> None:
        super().__init__(num_clients)
        require_kinds("data.partition", key=(key, str))
        self.key = key

    def split(self, labels: np.ndarray, seed: int, groups: Groups) -> list[np.ndarray]:
        """Sort images by group, then divide or merge the groups.

        Raises:
            MosaicError: the source has no groups of this key, or a group has fewer images than clients.
        """
        if self.key not in groups:
            known = f"one of {sorted(groups)}" if groups else "a source with groups, and this one has none"
            raise MosaicError(
                f"data.partition.key: expected {known}, got {self.key!r}: npz files store groups as train_KEY, other "
                "sources read them from group_columns; set them, or choose another data.partition"
            )
        values = np.asarray(groups[self.key])
        names, numbers = np.unique(values.astype(str) if values.dtype == object else values, return_inverse=True)
        random = np.random.default_rng(seed)
        members = [np.flatnonzero(numbers == group) for group in range(len(names))]
        num_clients = self.num_clients or len(names)
        log.info("partition: %d groups by %s for %d clients", len(names), self.key, num_clients)
        if num_clients < len(names):
            return merge_groups(members, num_clients, random)
        each, left_over = divmod(num_clients, len(names))
        shares = np.full(len(names), each)
        shares[np.argsort([-len(indices) for indices in members], kind="stable")[:left_over]] += 1
        for name, indices, share in zip(names, members, shares, strict=True):
            if share > len(indices):
                raise MosaicError(
                    f"data.partition: expected at least {share} images in every group by {self.key} for {num_clients} "
                    f"clients, got {len(indices)} in group {name}: lower num_clients, or leave it out"
                )
        cut = [
            np.array_split(random.permutation(indices), share) for indices, share in zip(members, shares, strict=True)
        ]
        return [np.sort(part) for parts in cut for part in parts]


def merge_groups(members: list[np.ndarray], num_clients: int, random: np.random.Generator) -> list[np.ndarray]:
    """Give whole groups to clients, the largest first, each to the client with the fewest images so far.

    ``members`` holds the indices of each group; ``random`` orders groups of equal size.
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
