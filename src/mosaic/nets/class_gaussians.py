"""A generator with one Gaussian per class (probabilistic PCA, Tipping and Bishop 1999)."""

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
    """Maps images to the lowest cosine coefficients of each channel, and back; this basis is public.

    The channels of colour images are brightness and two contrasts, which are nearly independent in photographs (JPEG).

    Args:
        image_shape: channels, height, width.
        count: largest number of coefficients along each side.
    """

    rows: Tensor
    columns: Tensor
    colours: Tensor

    def __init__(self, image_shape: ImageShape, count: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.register_buffer("rows", cosine_basis(height, count), persistent=False)
        self.register_buffer("columns", cosine_basis(width, count), persistent=False)
        colours = opponent_colours() if channels == 3 else torch.eye(channels)
        self.register_buffer("colours", colours, persistent=False)
        self.shape = (channels, len(self.rows), len(self.columns))
        self.dim = math.prod(self.shape)

    def analyse(self, images: Tensor) -> Tensor:
        """Turn pixels ``(n, channels, H, W)`` into coefficients ``(n, D)``."""
        coefficients = self.rows @ images @ self.columns.T
        return torch.einsum("oc,bchw->bohw", self.colours, coefficients).flatten(1)

    def synthesise(self, coefficients: Tensor) -> Tensor:
        """Turn coefficients ``(n, D)`` into pixels ``(n, channels, H, W)``."""
        channels = torch.einsum("oc,bohw->bchw", self.colours, coefficients.unflatten(1, self.shape))
        images: Tensor = self.rows.T @ channels @ self.columns
        return images


class ClassGaussianGenerator(ImageGenerator):
    """Draws images whose cosine coefficients are Gaussian within each class, ``x = mean[c] + directions own[c] z``.

    All classes vary in the same few directions, each with its own covariance.

    Args:
        image_shape: channels, height, width.
        num_classes: C.
        held: the classes to draw, shape ``(P,)``.
        coefficients: cosine coefficients along each side.
        components: K, the number of directions.
    """

    conditional = True
    mean: Tensor
    directions: Tensor
    own: Tensor
    row: Tensor

    def __init__(
        self, image_shape: ImageShape, num_classes: int, held: Tensor, coefficients: int, components: int
    ) -> None:
        super().__init__()
        self.basis = CosineCoefficients(image_shape, coefficients)
        self.latent_dim = components
        dim, count, half = self.basis.dim, len(held), torch.float16
        self.register_buffer("mean", torch.zeros(count, dim, dtype=half))
        self.register_buffer("directions", torch.zeros(dim, components, dtype=half))
        self.register_buffer("own", torch.zeros(count, components, components, dtype=half))
        row = torch.zeros(num_classes, dtype=torch.long, device="cpu")
        row[held] = torch.arange(count, device="cpu")
        self.register_buffer("row", row, persistent=False)

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Draw an image for each label; see :class:`ImageGenerator`."""
        if labels is None:
            raise ValueError("Gaussians of classes need labels of shape (B,), got None")
        rows, kind = self.row[labels], noise.dtype
        every = torch.einsum("bk,pjk->bpj", noise, self.own.to(kind))  # for all classes: cheaper than one per image
        around = every[torch.arange(len(rows), device=rows.device), rows] @ self.directions.to(kind).T
        return self.basis.synthesise(self.mean.to(kind)[rows] + around).clamp(0, 1)
