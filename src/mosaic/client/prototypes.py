"""Prototypes: cluster centres of a client's features, each of several images (docs/method.md, section 4)."""

import warnings
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mosaic.errors import MosaicError, require_count
from mosaic.training.dry_run import DryRun


@dataclass(frozen=True)
class PrototypeSettings:
    """How clients summarise their images.

    Attributes:
        clusters_per_class: most prototypes of one class, k (ours; released: 10 for CIFAR-10, 60 for CIFAR-100).
        min_count: fewest images per prototype (ours: 5; the release has no such rule). A class with fewer images sends
            none, because the mean of one image *is* that image's feature.
    """

    clusters_per_class: int = 60
    min_count: int = 5

    def __post_init__(self) -> None:
        """Refuse numbers that are not positive."""
        require_count("algorithm.prototypes", clusters_per_class=self.clusters_per_class, min_count=self.min_count)

    def within(self, dry_run: DryRun) -> "PrototypeSettings":
        """Return what holds in a dry run, whose eight images must do."""
        return replace(self, min_count=1) if dry_run else self


def require_prototypes(settings: PrototypeSettings, class_counts: Tensor) -> None:
    """Raise :class:`MosaicError` if no client has ``min_count`` images of any class; counts have shape ``(N, C)``."""
    largest = int(class_counts.max())
    if settings.min_count > largest:
        raise MosaicError(
            f"algorithm.prototypes.min_count: expected at most {largest}, the size of the largest class of any client, "
            f"got {settings.min_count}, with which no client has a prototype: lower it, or use an algorithm "
            "without prototypes (Mosaic with algorithm.teacher mosaic.teachers.Prior)"
        )


def class_prototypes(
    features: Tensor, labels: Tensor, settings: PrototypeSettings, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Cluster features class by class with k-means.

    A class of n images gets ``min(k, floor(n / min_count))`` clusters; clusters that end up smaller than ``min_count``
    are merged into their nearest neighbour.

    Args:
        features: shape ``(n, F)``.
        labels: shape ``(n,)``.
        settings: k and min_count.
        seed: seed of the initial centres.

    Returns:
        Centres ``(P, F)``, labels ``(P,)`` and sizes ``(P,)``; every size is at least ``min_count``. P may be 0.
    """
    from threadpoolctl import threadpool_limits

    centres: list[Tensor] = [features[:0]]
    names: list[int] = []
    sizes: list[int] = []
    with threadpool_limits(1):  # several threads add up in the order in which they finish
        for label in labels.unique().tolist():
            own = features[labels == label]
            clusters = min(settings.clusters_per_class, len(own) // settings.min_count)
            if clusters == 0:
                continue
            for members in _merge_small(own, _k_means(own, clusters, seed), settings.min_count):
                centres.append(own[members].mean(0, keepdim=True))
                names.append(label)
                sizes.append(int(members.sum()))
    return torch.cat(centres), torch.tensor(names, dtype=torch.long), torch.tensor(sizes, dtype=torch.long)


def _k_means(points: Tensor, clusters: int, seed: int) -> Tensor:
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than clusters: merged below
        model = KMeans(clusters, n_init=1, random_state=seed % 2**32).fit(points.numpy().astype(np.float64))
    return torch.from_numpy(model.labels_.astype(np.int64))


def _merge_small(points: Tensor, assignment: Tensor, min_count: int) -> list[Tensor]:
    """Merge small clusters into their nearest neighbours, and return a boolean mask for each cluster."""
    masks = [assignment == cluster for cluster in assignment.unique().tolist()]
    while len(masks) > 1:
        smallest = min(range(len(masks)), key=lambda i: int(masks[i].sum()))
        if masks[smallest].sum() >= min_count:
            break
        lost = masks.pop(smallest)
        centre = points[lost].mean(0)
        distances = [float((points[mask].mean(0) - centre).norm()) for mask in masks]
        nearest = distances.index(min(distances))
        masks[nearest] = masks[nearest] | lost
    return masks
