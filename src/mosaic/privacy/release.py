"""What a client releases once: noisy counts, sums and sums of outer products of its images' public features, by class.

Every unit, an image or a group of images, contributes a vector of norm 1 at most to each of the three. All sums are of
whole numbers, multiples of one over :data:`GRID`, so that this holds exactly and in any order.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from mosaic.finite import are_finite
from mosaic.nets.blueprint import Blueprint
from mosaic.nets.class_gaussians import CosineCoefficients
from mosaic.nets.classifier import ImageShape
from mosaic.privacy.accounting import COUNTS, MEANS, MOMENTS, Mechanism
from mosaic.privacy.noise import SecretNoise

GRID = 2**16
"""Steps of a contribution of norm 1; rounding is towards zero, so that no norm grows."""
_BELOW_ONE = 1 - 1e-9
_CHUNK = 256


class Release(NamedTuple):
    """Sums over units, by class.

    Attributes:
        counts: units, which are images, or patients of several, shape ``(C,)``.
        sums: of features, shape ``(C, D)``.
        moments: of outer products of features, as :func:`packed`, shape ``(C, D (D + 1) / 2)``.
    """

    counts: Tensor
    sums: Tensor
    moments: Tensor


class PublicFeatures:
    """Maps images to vectors of norm 1 at most, by public numbers alone, and back.

    Cosine coefficients of pixels less the public mean are divided by a scale for each frequency, then by a radius, and
    clipped to norm 1. Noise of equal size on all features is least for scales in proportion to the fourth root of the
    coefficients' variances, which are taken to fall with the square of the frequency, as in photographs (Field 1987).
    The radius is the root of the mean square norm of images with the public deviation and this spectrum.

    Args:
        image_shape: channels, height, width.
        coefficients: largest number of coefficients along each side.
        mean: public pixel mean per channel.
        std: public pixel standard deviation per channel.

    Raises:
        ValueError: they are such that features would not be numbers.
    """

    def __init__(
        self, image_shape: ImageShape, coefficients: int, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        self._basis = CosineCoefficients(image_shape, coefficients).double()
        self.dim = self._basis.dim
        channels, rows, columns = self._basis.shape
        height, width = image_shape[1:]
        centre = torch.tensor(mean, dtype=torch.double)[:, None, None].expand(image_shape)
        self._centre = self._basis.analyse(centre[None])[0]
        square = torch.arange(rows).double()[:, None] ** 2 + torch.arange(columns).double() ** 2
        variances = (1 / (1 + square)).expand(channels, rows, columns).flatten()
        power = height * width * float(torch.tensor(std, dtype=torch.double).square().sum())
        variances = variances * (power / variances.sum())
        scale = variances**0.25
        self._scale = scale * float((variances / scale**2).sum().sqrt())
        if not (are_finite([self._centre, self._scale]) and bool((self._scale > 0).all())):
            raise ValueError(f"expected a finite mean and a positive standard deviation, got {mean} and {std}")

    @staticmethod
    def of(blueprint: Blueprint, coefficients: int) -> "PublicFeatures":
        """Return the features of a network's images, with its public mean and deviation."""
        return PublicFeatures(blueprint.image_shape, coefficients, blueprint.mean, blueprint.std)

    def encode(self, pixels: Tensor) -> Tensor:
        """Turn pixels in ``[0, 1]``, shape ``(n, channels, H, W)``, into features ``(n, D)`` of norm 1 at most."""
        found: Tensor = (self._basis.analyse(pixels.double()) - self._centre) / self._scale
        clipped: Tensor = found / found.norm(dim=1, keepdim=True).clamp(min=1)
        return clipped

    def mean_coefficients(self, features: Tensor) -> Tensor:
        """Turn means of features ``(..., D)`` into those of coefficients."""
        return features * self._scale + self._centre

    def directions(self, directions: Tensor) -> Tensor:
        """Turn directions in features, ``(D, K)``, into those in coefficients."""
        return directions * self._scale[:, None]


def packed(matrices: Tensor) -> Tensor:
    """Return the upper triangles of symmetric matrices ``(n, D, D)``, ``(n, D (D + 1) / 2)``, with the same norms.

    >>> packed(torch.tensor([[[1.0, 2.0], [2.0, 3.0]]]).double()).square().sum().round()  # 1 + 4 + 4 + 9
    tensor(18., dtype=torch.float64)
    """
    row, column = torch.triu_indices(*matrices.shape[1:])
    return matrices[:, row, column] * _weights(row, column)


def unpacked(triangles: Tensor) -> Tensor:
    """Return the symmetric matrices of upper triangles, the inverse of :func:`packed`."""
    dim = (math.isqrt(1 + 8 * triangles.shape[1]) - 1) // 2
    row, column = torch.triu_indices(dim, dim)
    found = triangles.new_zeros(len(triangles), dim, dim)
    found[:, row, column] = triangles / _weights(row, column)
    found[:, column, row] = found[:, row, column]
    return found


def _weights(row: Tensor, column: Tensor) -> Tensor:
    return torch.where(row == column, 1.0, math.sqrt(2)).double()


def unit_weights(units: Tensor) -> Tensor:
    """Return the weight of each image, one over the number of images of its unit.

    >>> unit_weights(torch.tensor([7, 3, 7]))
    tensor([0.5000, 1.0000, 0.5000], dtype=torch.float64)
    """
    _, place, count = units.unique(return_inverse=True, return_counts=True)
    weights: Tensor = (1 / count.double())[place]
    return weights


def whole_sums(features: Tensor, labels: Tensor, weights: Tensor, num_classes: int) -> Release:
    """Return exact sums in steps of one over :data:`GRID`, as float64 whole numbers.

    Adding or removing one unit changes each of the three by a vector of norm ``GRID`` at most.

    Args:
        features: of norm 1 at most, float64, shape ``(n, D)``.
        labels: shape ``(n,)``.
        weights: of the images; those of one unit add up to 1 at most; shape ``(n,)``.
        num_classes: C.
    """
    dim = features.shape[1]
    shapes = {COUNTS: 1, MEANS: dim, MOMENTS: dim * (dim + 1) // 2}
    counts, sums, moments = (torch.zeros(num_classes, size, dtype=torch.double) for size in shapes.values())
    for own, classes, weight in zip(*(part.split(_CHUNK) for part in (features, labels, weights)), strict=True):
        weight = weight[:, None]
        counts.index_add_(0, classes, (weight * GRID).floor())
        sums.index_add_(0, classes, on_grid(own * weight))
        moments.index_add_(0, classes, on_grid(packed(own[:, :, None] * own[:, None, :]) * weight))
    return Release(counts.squeeze(1), sums, moments)


def on_grid(contributions: Tensor) -> Tensor:
    """Return contributions of norm 1 at most as whole numbers of steps; no norm grows, and what is no number is 0."""
    return (contributions * (GRID * _BELOW_ONE)).trunc().nan_to_num(0.0, 0.0, 0.0)


def noisy(exact: Release, mechanisms: Mapping[str, Mechanism], noise: SecretNoise) -> Release:
    """Add noise to exact sums, and return them as numbers of units, float32.

    Args:
        exact: see :func:`whole_sums`.
        mechanisms: how much noise; what has none by name is not released, and zero.
        noise: of this release alone.
    """

    def released(name: str, sums: Tensor) -> Tensor:
        if name not in mechanisms:
            return torch.zeros(sums.shape)
        around = noise.whole_gaussian(name, tuple(sums.shape), mechanisms[name].noise * GRID)
        return ((sums + around) / GRID).float()

    return Release(*(released(name, sums) for name, sums in zip((COUNTS, MEANS, MOMENTS), exact, strict=True)))
