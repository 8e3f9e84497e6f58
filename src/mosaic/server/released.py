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

    Counts and means are drawn together as far as noise explains that they are apart; classes whose count does not
    exceed its noise then are left out. What is left of a second moment is the spread of images around such a mean, its
    own uncertainty included: all classes have one covariance, and each adds of its own what stands out of the noise.

    Args:
        total: sums over clients.
        deviations: standard deviation of the noise of each sum, by name.
        features: by which clients have encoded their images.
        generation: how many coefficients there are, and how strongly classes are drawn together.
        image_shape: channels, height, width.

    Returns:
        The generator and the images per class, shape ``(C,)``; nothing where no class stands out.
    """
    images = _shrunk(total.counts[:, None], torch.tensor(deviations[COUNTS])).squeeze(1)
    held = images > max(_FEWEST, deviations[COUNTS])
    if not held.any():
        return None
    counts, dim = torch.where(held, images, 0).round().long(), features.dim
    generator = ClassGaussianGenerator(
        image_shape, len(counts), held.nonzero().squeeze(1), generation.coefficients, dim
    )
    n, noise = images[held], deviations[MOMENTS]
    means = _shrunk(total.sums[held] / n[:, None], deviations[MEANS] / n, total.sums[held].sum(0) / n.sum())
    around = unpacked(total.moments[held]) - n[:, None, None] * means[:, :, None] * means[:, None, :]
    common = _with_diagonal(around.sum(0) / n.sum(), noise * math.sqrt(len(n)) / float(n.sum()))
    generator.mean.copy_(features.mean_coefficients(means))
    generator.directions.copy_(features.directions(torch.eye(dim).double()))
    for row, (count, own) in enumerate(zip(n, around, strict=True)):
        share = count / (count + generation.shrinkage * dim)
        apart = _standing_out(own / count - common, noise / float(count))
        generator.own[row] = _root(common + share * apart).half()
    return generator, counts


def _shrunk(found: Tensor, deviation: Tensor, centre: Tensor | None = None) -> Tensor:
    """Draw rows ``(P, D)`` to their mean, or a given one, by the part of their spread that noise explains.

    This is the estimate of Efron and Morris (1973), for each column by itself.
    """
    centre = found.mean(0) if centre is None else centre
    noise = deviation.double().square().mean()
    apart = (found - centre).square().sum(0) / max(1, len(found) - 1)
    kept = (1 - noise / apart.clamp(min=_LEAST_VARIANCE)).clamp(min=0)
    return centre + kept * (found - centre)


def _with_diagonal(covariance: Tensor, deviation: float) -> Tensor:
    """Return what stands out of a noisy covariance ``(D, D)``, with the variances that are on its diagonal.

    There noise has the same size as elsewhere, but there is a hundred times as much elsewhere.
    """
    found = _standing_out(covariance, deviation, negative=False)
    return found + (covariance - found).diag().clamp(min=0).diag()


def _standing_out(matrix: Tensor, deviation: float, negative: bool = True) -> Tensor:
    """Return the part of a symmetric matrix ``(D, D)`` that noise alone cannot explain, less what noise adds to it.

    Noise of this deviation, as packed, has eigenvalues up to ``edge = deviation sqrt(2 D)``, and makes an eigenvalue v
    appear as ``v + edge^2 / (4 v)`` (Benaych-Georges and Nadakuditi 2011, arXiv 0910.2120).

    Args:
        matrix: with noise.
        deviation: of the noise.
        negative: whether negative eigenvalues mean anything.
    """
    edge = deviation * math.sqrt(2 * len(matrix))
    found, axes = torch.linalg.eigh(matrix)
    size = (found.abs() + (found.square() - edge**2).clamp(min=0).sqrt()) / 2
    kept = torch.where((found.abs() > edge) & (negative | (found > 0)), size * found.sign(), 0)
    part: Tensor = axes * kept @ axes.T
    return part


def _root(covariance: Tensor) -> Tensor:
    """Return R with ``R R^T`` the nearest positive semi-definite matrix."""
    variances, axes = torch.linalg.eigh(covariance)
    root: Tensor = axes * variances.clamp(min=0).sqrt()
    return root
