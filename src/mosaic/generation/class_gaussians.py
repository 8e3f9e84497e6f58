"""One Gaussian per class in cosine coefficients, learnt in a fraction of a second by linear algebra."""

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from mosaic.errors import MosaicError, require_at_least_zero, require_count, require_share
from mosaic.finite import are_finite
from mosaic.generation.base import Fitted, Generation, NoGeneratorError, OwnImages
from mosaic.nets.class_gaussians import ClassGaussianGenerator
from mosaic.nets.classifier import ImageShape

log = logging.getLogger(__name__)

JITTER = 1e-10
"""Smallest variance of a direction; without it the covariance of constant images has no Cholesky factor."""
_said = set[tuple[int, int]]()
"""Settings of which this process has said that clients have too few images for all directions."""


@dataclass(frozen=True)
class ClassGaussians(Generation):
    """A mean per class, and covariances in the few directions in which the client's images vary most.

    The basis is public: the lowest cosine coefficients of brightness and of two colour contrasts. The directions are
    the principal components of all images around their class means (probabilistic PCA without its noise, Tipping and
    Bishop 1999; for image models of this kind see Richardson and Weiss 2018, arXiv 1805.12462), of a covariance that is
    shrunk towards its own diagonal. A class's covariance along them is its own with weight
    ``n / (n + shrinkage * K)``, else that of all classes (n images of the class, K directions). All is sent as float16.

    Principal components of n images span these images: with nearly as many components as images a server could rebuild
    them. So each mean requires ``images_per_class`` images, and each direction ``images_per_component`` more. The
    diagonal turns the directions towards the public axes, which reveal nothing. On clients with 11 to 60 digits, the
    tests' membership attacks reach an area under the ROC curve of 0.88 with a direction for every 5 images and no such
    rule, and of 0.64 with these defaults; chance is 0.5.

    Attributes:
        coefficients: cosine coefficients along each side of each channel.
        components: largest number of directions.
        images_per_component: images required per direction, in addition to those of the means.
        diagonal_share: lambda; directions are those of ``(1 - lambda) S + lambda diag(S)``.
        shrinkage: how strongly the covariance of a class with few images is shrunk towards the common one.
        images_per_class: fewest images of a class from which its mean is learnt; a mean of fewer reveals single images.
    """

    coefficients: int = 12
    components: int = 100
    images_per_component: int = 10
    diagonal_share: float = 0.8
    shrinkage: float = 1.0
    images_per_class: int = 8
    conditional = True

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        section = "algorithm.generation"
        require_count(section, coefficients=self.coefficients, components=self.components)
        require_count(section, images_per_class=self.images_per_class, images_per_component=self.images_per_component)
        require_at_least_zero(section, shrinkage=self.shrinkage)
        require_share(section, diagonal_share=self.diagonal_share)
        if self.images_per_component < 2:
            raise MosaicError(
                f"{section}.images_per_component: expected at least 2, since as many components as images reveal the "
                f"images themselves, got {self.images_per_component}"
            )

    @property
    def min_count(self) -> int:  # type: ignore[override]
        """Fewest images of a class; YAML has another name for it, since GANs have another default."""
        return self.images_per_class

    def build(self, image_shape: ImageShape, class_counts: Tensor) -> ClassGaussianGenerator:
        """Return a generator of the classes that have images, with all tensors zero."""
        held = (class_counts > 0).nonzero().squeeze(1)
        return ClassGaussianGenerator(image_shape, len(class_counts), held, self.coefficients, self.components)

    def fit(self, own: OwnImages) -> Fitted:
        """Compute the directions of all images, and the covariance of each class along them."""
        pixels = own.pixels().float()
        channels, height, width = pixels.shape[1:]
        generator = self.build((channels, height, width), own.class_counts)
        points = generator.basis.analyse(pixels).double()
        members = [own.labels == label for label in (own.class_counts > 0).nonzero().squeeze(1)]
        around = torch.empty_like(points)
        for row, mine in enumerate(members):
            generator.mean[row] = (mean := points[mine].mean(0)).half()
            around[mine] = points[mine] - mean
        variances, directions = self._principal(around, classes=len(members))
        rank = len(variances)
        generator.directions[:, :rank] = directions.half()
        along = around @ directions
        for row, mine in enumerate(members):
            count = int(mine.sum())
            share = count / (count + self.shrinkage * rank)
            covariance = share * along[mine].T @ along[mine] / max(1, count - 1) + (1 - share) * variances.diag()
            factor: Tensor = torch.linalg.cholesky(covariance + JITTER * torch.eye(rank))
            generator.own[row, :rank, :rank] = factor.half()
        if not are_finite(generator.state_dict().values()):
            raise NoGeneratorError("the Gaussians of its images are not finite")
        return Fitted(generator)

    def _principal(self, around: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """Return the largest variances ``(K,)`` of points ``(n, D)`` around means, and their directions ``(D, K)``."""
        count, dim = around.shape
        left = max(0, count - classes * self.images_per_class)
        rank = min(self.components, left // self.images_per_component, dim)
        if not around.isfinite().all():
            raise NoGeneratorError("its images are not finite")
        if rank < min(self.components, dim):
            _say_once(count, rank, self.components, self.images_per_component)
        covariance = around.T @ around / max(1, count - 1)
        shrunk = (1 - self.diagonal_share) * covariance + self.diagonal_share * covariance.diag().diag()
        variances, directions = torch.linalg.eigh(shrunk)
        return variances.flip(0)[:rank].clamp(min=0), directions.flip(1)[:, :rank]


def _say_once(images: int, rank: int, components: int, per_component: int) -> None:
    """Say that a client has too few images for all directions, and nothing of later ones with these settings."""
    if (components, per_component) not in _said:
        _said.add((components, per_component))
        log.info(
            "Gaussians: a client's %d images are too few for all %d directions in which its images may vary "
            "(algorithm.generation.components); it learns %d, and one more for every %d more images. "
            "Other clients with few images do likewise",
            *(images, components, rank, per_component),
        )
