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


def opponent_colours() -> Tensor:
    """Return brightness, red against blue, and green against both as orthonormal rows, shape ``(3, 3)``."""
    rows = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 2.0, -1.0]])
    colours: Tensor = rows / rows.norm(dim=1, keepdim=True)
    return colours


class CosineCoefficients(nn.Module):
    """Images as the lowest cosine coefficients of each channel: a basis that is public, so that it tells nothing.

    Of colours the channels are brightness and two contrasts, which photographs hardly mix (as JPEG does).

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
        colours = opponent_colours() if channels == 3 else torch.eye(channels)
        self.colours: Tensor
        self.register_buffer("colours", colours, persistent=False)
        self.shape = (channels, len(self.rows), len(self.columns))
        self.dim = math.prod(self.shape)

    def analyse(self, images: Tensor) -> Tensor:
        """Turn pixels ``(n, channels, H, W)`` into coefficients ``(n, D)``."""
        coefficients = self.rows @ images @ self.columns.T
        return torch.einsum("oc,bchw->bohw", self.colours, coefficients).flatten(1)

    def synthesise(self, coefficients: Tensor) -> Tensor:
        """Turn coefficients ``(n, D)`` into pixels ``(n, channels, H, W)``; what was left out is zero."""
        channels = torch.einsum("oc,bohw->bchw", self.colours, coefficients.unflatten(1, self.shape))
        images: Tensor = self.rows.T @ channels @ self.columns
        return images


class ClassGaussianGenerator(ImageGenerator):
    """Draws images whose cosine coefficients are Gaussian within each class.

    All classes vary in the same few directions, each with its own covariance: ``x = mean[c] + directions own[c] z``.

    Args:
        image_shape: channels, height, width.
        num_classes: C.
        held: which classes there are, shape ``(P,)``.
        coefficients: cosine coefficients in either direction.
        components: K, the directions.
    """

    conditional = True

    def __init__(
        self, image_shape: ImageShape, num_classes: int, held: Tensor, coefficients: int, components: int
    ) -> None:
        super().__init__()
        self.basis = CosineCoefficients(image_shape, coefficients)
        self.latent_dim = components
        dim, count, half = self.basis.dim, len(held), torch.float16
        self.mean: Tensor
        self.directions: Tensor
        self.own: Tensor
        self.row: Tensor
        self.register_buffer("mean", torch.zeros(count, dim, dtype=half))
        self.register_buffer("directions", torch.zeros(dim, components, dtype=half))
        self.register_buffer("own", torch.zeros(count, components, components, dtype=half))
        row = torch.zeros(num_classes, dtype=torch.long, device="cpu")
        row[held] = torch.arange(count, device="cpu")
        self.register_buffer("row", row, persistent=False)

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Draw an image of every label; see :class:`ImageGenerator`."""
        if labels is None:
            raise ValueError("Gaussians of classes need labels of shape (B,), got None")
        rows, kind = self.row[labels], noise.dtype
        every = torch.einsum("bk,pjk->bpj", noise, self.own.to(kind))  # of all classes: cheaper than a factor per image
        around = every[torch.arange(len(rows), device=rows.device), rows] @ self.directions.to(kind).T
        return self.basis.synthesise(self.mean.to(kind)[rows] + around).clamp(0, 1)
