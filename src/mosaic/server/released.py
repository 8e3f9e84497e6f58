"""Make a generator of what clients have released under differential privacy: post-processing, which costs nothing.

Noise is known in size and shape: all of these estimates use public numbers and noisy sums alone.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mosaic.generation.class_gaussians import ClassGaussians
from mosaic.messages import ReleaseReply
from mosaic.nets.class_gaussians import ClassGaussianGenerator
from mosaic.nets.classifier import ImageShape
from mosaic.privacy.accounting import COUNTS, MEANS, MOMENTS, RELEASED, Mechanism
from mosaic.privacy.release import PublicFeatures, Release, unpacked

_FEWEST = 1.0
"""Images that a class counts at least."""
_LEAST_VARIANCE = 1e-10


def pooled(replies: Sequence[ReleaseReply]) -> Release:
    """Add up what clients have released, in float64."""
    parts = ([reply.counts, reply.sums, reply.moments] for reply in replies)
    return Release(*(torch.stack([each.double() for each in part]).sum(0) for part in zip(*parts, strict=True)))


def deviations_of(mechanisms: Mapping[str, Mechanism], clients: int) -> dict[str, float]:
    """Return the standard deviation of each sum's noise, by name, over so many clients."""
    return {name: mechanisms[name].noise * math.sqrt(clients) if name in mechanisms else 0.0 for name in RELEASED}


def fit_released(
    total: Release,
    deviations: Mapping[str, float],
    features: PublicFeatures,
    generation: ClassGaussians,
    image_shape: ImageShape,
) -> tuple[ClassGaussianGenerator, Tensor] | None:
    """Make a generator with a Gaussian for each class, of sums over clients.

    Classes whose count does not exceed its noise are left out. Means are shrunk towards the mean of all images, by the
    part of their spread that noise explains (Efron and Morris 1973), each feature by itself. Directions are those in
    which the variance within classes exceeds what noise alone would reach, less what noise adds to it (Benaych-Georges
    and Nadakuditi 2011, arXiv 0910.2120). A class's own covariance along them counts by how much it tells beside its
    noise; matrices are projected on the positive semi-definite ones.

    Args:
        total: sums over clients.
        deviations: standard deviation of the noise of each sum, by name.
        features: by which clients have encoded their images.
        generation: how many coefficients and directions, and how strongly classes are drawn together.
        image_shape: channels, height, width.

    Returns:
        The generator and the images per class, shape ``(C,)``; nothing where no class stands out.
    """
    held = total.counts > max(_FEWEST, deviations[COUNTS])
    if not held.any():
        return None
    counts = torch.where(held, total.counts, 0).round().long()
    generator = generation.build(image_shape, counts)
    n, sums, moments = total.counts[held], total.sums[held], unpacked(total.moments[held])
    means = _means(n, sums, deviations[MEANS])
    around = moments - n[:, None, None] * means[:, :, None] * means[:, None, :]
    rank = min(generation.components, features.dim)
    noise = deviations[MOMENTS] * math.sqrt(len(n)) / float(n.sum())
    variances, directions = _directions(around.sum(0) / n.sum(), noise, rank)
    rank = len(variances)
    generator.mean.copy_(features.mean_coefficients(means))
    generator.directions[:, :rank] = features.directions(directions).half()
    along = directions.T @ around @ directions / n[:, None, None]
    for row, (count, own) in enumerate(zip(n, along, strict=True)):
        blur = rank * (deviations[MOMENTS] / count / variances.mean()) ** 2 if rank else 0.0
        share = count / (count + generation.shrinkage * rank + count * blur)
        mixed = share * own + (1 - share) * variances.diag()
        generator.own[row, :rank, :rank] = _root(mixed).half()
    return generator, counts


def _means(counts: Tensor, sums: Tensor, deviation: float) -> Tensor:
    """Return means ``(P, D)`` that are drawn towards the mean of all as far as noise has driven them apart."""
    means, centre = sums / counts[:, None], sums.sum(0) / counts.sum()
    noise = (deviation / counts).square().mean()
    apart = (means - centre).square().mean(0) * len(counts) / max(1, len(counts) - 1)
    kept = (1 - noise / apart.clamp(min=_LEAST_VARIANCE)).clamp(min=0)
    return centre + kept * (means - centre)


def _directions(covariance: Tensor, deviation: float, most: int) -> tuple[Tensor, Tensor]:
    """Return variances ``(K,)`` and directions ``(D, K)`` that stand out of the noise of a symmetric matrix.

    Noise of this deviation (as packed) has eigenvalues up to ``edge = deviation sqrt(2 D)``, and makes a variance v
    appear as ``v + edge^2 / (4 v)``.
    """
    edge = deviation * math.sqrt(2 * len(covariance))
    found, directions = torch.linalg.eigh(covariance)
    kept = int((found > max(edge, _LEAST_VARIANCE)).sum())
    found, directions = found.flip(0)[: min(kept, most)], directions.flip(1)[:, : min(kept, most)]
    return (found + (found.square() - edge**2).sqrt()) / 2, directions


def _root(covariance: Tensor) -> Tensor:
    """Return R with ``R R^T`` the nearest positive semi-definite matrix."""
    variances, axes = torch.linalg.eigh(covariance)
    root: Tensor = axes * variances.clamp(min=0).sqrt()
    return root
