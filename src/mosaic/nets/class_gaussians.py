"""One Gaussian per class, drawn from by matrix products (Tipping and Bishop 1999, probabilistic PCA)."""

import math

import torch
from torch import Tensor, nn

from mosaic.nets.classifier import ImageShape
from mosaic.nets.image_generator import ImageGenerator


def cosine_basis(size: int, count: int) -> Tensor:
    """Return the first cosines of the orthonormal DCT-II as rows, shape ``(min(count, size), size)``.

    >>> torch.allclose(cosine_basis(8, 8) @ cosine_basis(8, 8).T, torch.eye(8), atol=1e-6)
    True
    """
    frequency, place = torch.arange(min(count, size)).double(), torch.arange(size).double()
    rows = torch.cos(math.pi / size * (place + 0.5) * frequency[:, None]) * math.sqrt(2 / size)
    rows[0] /= math.sqrt(2)
    return rows.float()


class CosineCoefficients(nn.Module):
    """Images as the lowest cosine coefficients of each channel: a basis that is public, so that it tells nothing.

    Args:
        image_shape: channels, height, width.
        count: coefficients kept in either direction; all where there are no more.
    """

    def __init__(self, image_shape: ImageShape, count: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.rows: Tensor
        self.columns: Tensor
        self.register_buffer("rows", cosine_basis(height, count), persistent=False)
        self.register_buffer("columns", cosine_basis(width, count), persistent=False)
        self.shape = (channels, len(self.rows), len(self.columns))
        self.dim = math.prod(self.shape)

    def analyse(self, images: Tensor) -> Tensor:
        """Turn pixels ``(n, channels, H, W)`` into coefficients ``(n, D)``."""
        return (self.rows @ images @ self.columns.T).flatten(1)

    def synthesise(self, coefficients: Tensor) -> Tensor:
        """Turn coefficients ``(n, D)`` into pixels ``(n, channels, H, W)``; what was left out is zero."""
        images: Tensor = self.rows.T @ coefficients.unflatten(1, self.shape) @ self.columns
        return images


class ClassGaussianGenerator(ImageGenerator):
    """Draws images whose cosine coefficients are Gaussian within each class.

    The covariance of a class is its own low-rank part, plus a part that all classes of the client share, plus the same
    variance in every direction: ``x = mean[c] + own[c] z + weight[c] * shared z' + spread[c] z''``.

    Args:
        image_shape: channels, height, width.
        num_classes: C.
        held: which classes there are, shape ``(P,)``.
        coefficients: cosine coefficients in either direction.
        components: K, columns of each low-rank part.
    """

    conditional = True

    def __init__(
        self, image_shape: ImageShape, num_classes: int, held: Tensor, coefficients: int, components: int
    ) -> None:
        super().__init__()
        self.basis = CosineCoefficients(image_shape, coefficients)
        self.components, self.latent_dim = components, 2 * components + self.basis.dim
        dim, count = self.basis.dim, len(held)
        self.mean: Tensor
        self.own: Tensor
        self.shared: Tensor
        self.weight: Tensor
        self.spread: Tensor
        self.row: Tensor
        half = torch.float16
        self.register_buffer("mean", torch.zeros(count, dim, dtype=half))
        self.register_buffer("own", torch.zeros(count, dim, components, dtype=half))
        self.register_buffer("shared", torch.zeros(dim, components, dtype=half))
        self.register_buffer("weight", torch.zeros(count, dtype=half))
        self.register_buffer("spread", torch.zeros(count, dtype=half))
        row = torch.zeros(num_classes, dtype=torch.long, device="cpu")
        row[held] = torch.arange(count, device="cpu")
        self.register_buffer("row", row, persistent=False)

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Draw an image of every label; see :class:`ImageGenerator`."""
        if labels is None:
            raise ValueError("Gaussians of classes need labels of shape (B,), got None")
        rows, kind = self.row[labels], noise.dtype
        z_own, z_shared, z_rest = noise.split([self.components, self.components, self.basis.dim], dim=1)
        every = torch.einsum("bk,pdk->bpd", z_own, self.own.to(kind))  # of all classes: cheaper than a factor per image
        own = every[torch.arange(len(rows), device=rows.device), rows]
        shared = self.weight.to(kind)[rows, None] * (z_shared @ self.shared.to(kind).T)
        rest = self.spread.to(kind)[rows, None] * z_rest
        return self.basis.synthesise(self.mean.to(kind)[rows] + own + shared + rest).clamp(0, 1)
