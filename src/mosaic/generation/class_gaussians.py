"""One Gaussian per class in cosine coefficients: learnt in seconds, by linear algebra."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mosaic.errors import MosaicError, require_at_least_zero, require_positive
from mosaic.generation.base import Fitted, Generation, NoGeneratorError, OwnImages
from mosaic.messages import are_finite
from mosaic.nets.class_gaussians import ClassGaussianGenerator, CosineCoefficients
from mosaic.nets.classifier import ImageShape

MOST = 60000.0
"""Below the largest number of float16."""


@dataclass(frozen=True)
class ClassGaussians(Generation):
    """Probabilistic PCA of each class (Tipping and Bishop 1999), shrunk towards what all classes of a client share.

    Image models of this kind: Richardson and Weiss 2018 (arXiv 1805.12462). The basis is public: the lowest cosine
    coefficients of each channel. A covariance is that of the class with weight ``n / (n + shrinkage * D)`` and that of
    all the client's images around their class means otherwise (D coefficients, n images of the class). It crosses as
    float16.

    The principal components of n images span these images, so that with nearly as many components as images a server
    could rebuild them. Each low-rank part has one component for every ``images_per_component`` images at most.

    Attributes:
        coefficients: cosine coefficients in either direction of each channel.
        components: of each low-rank part, at most.
        images_per_component: fewest images behind each of them.
        shrinkage: how strongly classes of few images lean on what is common.
        spread: whether what the components leave out is drawn as white noise; it makes images rougher.
        images_per_class: fewest images of a class that images are made of: a mean of fewer tells of each.
    """

    coefficients: int = 16
    components: int = 100
    images_per_component: int = 25
    shrinkage: float = 0.25
    spread: bool = False
    images_per_class: int = 8
    conditional = True

    def __post_init__(self) -> None:
        """Refuse what cannot be learnt."""
        section = "algorithm.generation"
        require_positive(
            section,
            coefficients=self.coefficients,
            components=self.components,
            images_per_class=self.images_per_class,
        )
        require_at_least_zero(section, shrinkage=self.shrinkage)
        if self.images_per_component < 2:
            raise MosaicError(
                f"{section}.images_per_component: expected at least 2, since as many components as images would tell "
                f"the images themselves, got {self.images_per_component}"
            )

    @property
    def min_count(self) -> int:  # type: ignore[override]
        """Fewest images of a class; under a name of its own in YAML, since GANs have another default."""
        return self.images_per_class

    def build(self, image_shape: ImageShape, class_counts: Tensor) -> ClassGaussianGenerator:
        """Return Gaussians of the classes that have images, all zero."""
        held = (class_counts > 0).nonzero().squeeze(1)
        return ClassGaussianGenerator(image_shape, len(class_counts), held, self.coefficients, self.components)

    def fit(self, own: OwnImages) -> Fitted:
        """Decompose what the client's images are in cosine coefficients, class by class."""
        pixels = own.pixels().float()
        basis = CosineCoefficients(tuple(pixels.shape[1:]), self.coefficients)  # type: ignore[arg-type]
        points = basis.analyse(pixels).double()
        generator = self.build(tuple(pixels.shape[1:]), own.class_counts)  # type: ignore[arg-type]
        held = (own.class_counts > 0).nonzero().squeeze(1).tolist()
        around = torch.empty_like(points)
        for row, label in enumerate(held):
            mine = own.labels == label
            generator.mean[row] = (mean := points[mine].mean(0)).half()
            around[mine] = points[mine] - mean
        shared, shared_rest = self._decompose(around)
        generator.shared[:, : shared.shape[1]] = shared.half()
        for row, label in enumerate(held):
            members = around[own.labels == label]
            share = len(members) / (len(members) + self.shrinkage * basis.dim)
            factor, rest = self._decompose(members)
            generator.own[row, :, : factor.shape[1]] = (share**0.5 * factor).half()
            generator.weight[row] = (1 - share) ** 0.5
            generator.spread[row] = (share * rest + (1 - share) * shared_rest) ** 0.5 if self.spread else 0.0
        if not are_finite(generator.state_dict().values()):
            raise NoGeneratorError("the Gaussians of its images are not finite")
        return Fitted(generator)

    def _decompose(self, around: Tensor) -> tuple[Tensor, float]:
        """Split a covariance into a low-rank factor ``(D, r)`` and the variance of every other direction.

        Args:
            around: points around their means, shape ``(n, D)``.
        """
        count, dim = around.shape
        rank = min(self.components, count // self.images_per_component, dim)
        variances, directions = torch.linalg.eigh(around.T @ around / max(1, count - 1))
        variances, directions = variances.clamp(min=0).flip(0), directions.flip(1)
        rest = float(variances[rank:].mean()) if rank < dim else 0.0
        kept = (variances[:rank] - (rest if self.spread else 0.0)).clamp(min=0)
        return directions[:, :rank] * kept.sqrt(), rest
