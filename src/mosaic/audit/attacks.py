"""Membership attacks: score images by how likely an upload was learnt from them, and measure how well that works."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mosaic.audit.finding import FALSE_POSITIVES, FEWEST_OTHERS
from mosaic.client.generator_quality import nearest_distances
from mosaic.nets.image_generator import ImageGenerator, MixedGenerator
from mosaic.nets.inference import predict, to_pixels
from mosaic.privacy.release import Release, unpacked

SEARCH_STEPS, SEARCH_RATE = 100, 0.1
_BATCH = 256
_NO_NOISE = 1e-3
_LARGEST = 1e30
"""Larger scores count as this one: their sums would be infinite."""


class Success(NamedTuple):
    """How well scores tell members from others.

    Attributes:
        auc: area under the ROC curve: the probability that a member scores above another image; chance is 0.5.
        rate: share of the members found where 1 % of the others are taken for members (Carlini et al. 2022, arXiv
            2112.03570); chance is 0.01. None below 99 others.
    """

    auc: float
    rate: float | None


def success(members: Tensor, others: Tensor) -> Success:
    """Compare the scores of members ``(n,)`` with those of others ``(m,)``; in the area ties count half.

    >>> success(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0]))
    Success(auc=1.0, rate=None)
    """
    from sklearn.metrics import roc_auc_score

    truth = torch.cat([torch.ones(len(members)), torch.zeros(len(others))]).numpy()
    scores = torch.cat([members, others]).double().numpy()
    return Success(float(roc_auc_score(truth, scores)), _found(members, others))


def _found(members: Tensor, others: Tensor) -> float | None:
    """Return the share of the members above the others' 1 % point.

    A score that is no member's lies above the j-th highest of m others with probability ``j / (m + 1)``; between two of
    them the share is interpolated, so that chance is 1 % with any m.
    """
    place = FALSE_POSITIVES * (len(others) + 1)
    if len(others) < FEWEST_OTHERS:
        return None
    highest = others.topk(int(place) + 1).values
    below, above = (float((members > threshold).double().mean()) for threshold in highest[-2:])
    return below + (place - int(place)) * (above - below)


def comparable(scores: Tensor) -> Tensor:
    """Return scores in which what is no number, as of a network that has diverged, tells nothing.

    >>> comparable(torch.tensor([1.0, torch.nan, 3.0]))
    tensor([1., 2., 3.])
    """
    bounded = scores.clamp(-_LARGEST, _LARGEST)
    known = bounded[~bounded.isnan()]
    return bounded.nan_to_num(float(known.mean()) if len(known) else 0.0)


def within_classes(scores: Tensor, labels: Tensor) -> Tensor:
    """Return scores less the mean of their class, since some classes are easier to draw than others."""
    sums = torch.zeros(int(labels.max()) + 1, dtype=scores.dtype).index_add_(0, labels, scores)
    return scores - (sums / labels.bincount().clamp(min=1))[labels]


def joined(looks: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Join what several uploads of one kind tell: the sum of their scores, each in units of its standard deviation.

    Args:
        looks: scores of images, shape ``(n,)``, and which images each can be about, booleans of the same shape.

    Returns:
        Scores, and which images any upload can be about.
    """
    score, about = torch.zeros_like(looks[0][0]), torch.zeros_like(looks[0][1])
    for look, known in looks:
        each = comparable(look)
        scale = each[known].std(correction=0).clamp(min=1e-12) if known.any() else 1.0
        score, about = score + torch.where(known, each / scale, 0.0), about | known
    return score, about


@torch.no_grad()
def nearest_draw(
    generator: ImageGenerator, pixels: Tensor, labels: Tensor, draws: int, random: torch.Generator
) -> Tensor:
    """Score images by their distance to the nearest of some generated images, of their class where it has one.

    This needs no weights, only images that anybody may draw (black box; Hayes et al. 2019, arXiv 1705.07663).

    Args:
        generator: as uploaded.
        pixels: uint8, shape ``(n, channels, H, W)``.
        labels: shape ``(n,)``.
        draws: images to draw for each class.
        random: of the noise.

    Returns:
        Negative distances, shape ``(n,)``.
    """
    score = torch.full((len(pixels),), -torch.inf)
    for label in labels.unique():
        noise = torch.randn(draws, generator.latent_dim, generator=random)
        drawn = generator(noise, torch.full((draws,), int(label)))
        own = slice(None) if not generator.conditional else labels == label
        score[own] = torch.maximum(score[own], -nearest_distances(to_pixels(pixels[own]), drawn))
    return score


def latent_search(generator: ImageGenerator, pixels: Tensor, labels: Tensor) -> Tensor:
    """Score images by how well the generator can be made to draw them, with its weights at hand.

    For each image the noise is sought that brings the generated image nearest (GAN-Leaks, Chen et al. 2020, arXiv
    1909.03935), by Adam from the mean.

    Args:
        generator: as uploaded.
        pixels: uint8, shape ``(n, channels, H, W)``.
        labels: shape ``(n,)``.

    Returns:
        Negative distances, shape ``(n,)``; of several parts the nearest counts.
    """
    parts = generator.parts if isinstance(generator, MixedGenerator) else [generator]
    batches = list(zip(pixels.split(_BATCH), labels.split(_BATCH), strict=True))
    found = [torch.cat([_search(part, to_pixels(own), classes) for own, classes in batches]) for part in parts]
    return torch.stack(found).amax(0)


def _search(generator: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor:
    noise = torch.zeros(len(pixels), int(generator.latent_dim), requires_grad=True)  # type: ignore[arg-type]
    optimizer = torch.optim.Adam([noise], lr=SEARCH_RATE)
    for _ in range(SEARCH_STEPS):
        optimizer.zero_grad()
        loss = (generator(noise, labels) - pixels).square().sum()
        (noise.grad,) = torch.autograd.grad(loss, [noise])
        optimizer.step()
    with torch.no_grad():
        distances: Tensor = (generator(noise, labels) - pixels).flatten(1).norm(dim=1)
    return -distances


def nearest_prototype(features: Tensor, labels: Tensor, prototypes: Tensor, prototype_labels: Tensor) -> Tensor:
    """Score images by the distance of their features ``(n, F)`` to the nearest prototype of their class.

    Args:
        features: of the images.
        labels: of the images, shape ``(n,)``.
        prototypes: as uploaded, shape ``(P, F)``.
        prototype_labels: shape ``(P,)``.

    Returns:
        Negative distances, shape ``(n,)``; images of a class without a prototype score alike.
    """
    distances = torch.cdist(features, prototypes)
    distances[labels[:, None] != prototype_labels] = torch.inf
    nearest = distances.amin(1) if len(prototypes) else torch.full((len(features),), torch.inf)
    return -nearest.nan_to_num(posinf=0.0)


def matched_filter(release: Release, features: Tensor, labels: Tensor, noise: tuple[float, float]) -> Tensor:
    """Score images by how much noisy sums look like them.

    Where noise hides everything else, this is what tells a shifted Gaussian from one that is not best: the product with
    the image's own contribution. Where there is less noise, directions in which many images lie would drown the others;
    so each direction of the moments counts at most as much as noise could reach, in the sums too, and without any
    noise all alike: then a member is an image that lies in the span of the others.

    Args:
        release: as uploaded.
        features: of the images, float64, shape ``(n, D)``.
        labels: shape ``(n,)``.
        noise: standard deviation of the noise of sums, and of moments; infinite where there are none.

    Returns:
        Scores, shape ``(n,)``.
    """
    edge = max(noise[1] * math.sqrt(2 * features.shape[1]), _NO_NOISE)
    sizes, axes = torch.linalg.eigh(unpacked(release.moments.double()))
    sizes = sizes.clamp(min=0)
    held = 1 / (1 + sizes / edge)
    along = (features[:, None, :] @ axes[labels]).squeeze(1)
    sums = (release.sums.double()[:, None, :] @ axes).squeeze(1)
    by_moments = (along.square() * (sizes * held)[labels]).sum(1)
    by_sums = (along * (sums * held)[labels]).sum(1)
    score: Tensor = by_moments if noise[0] == 0 else by_sums / noise[0] ** 2 + by_moments / noise[1] ** 2
    return score


def losses(net: nn.Module, pixels: Tensor, labels: Tensor) -> Tensor:
    """Return a classifier's cross-entropy of each image, shape ``(n,)``."""
    logits = predict(net, pixels, torch.device("cpu"))
    return nn.functional.cross_entropy(logits, labels, reduction="none")
