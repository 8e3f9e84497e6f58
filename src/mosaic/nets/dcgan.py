"""DCGAN's generator and discriminator (Radford et al. 2016, arXiv 1511.06434) for images of any size."""

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mosaic.nets.classifier import ImageShape
from mosaic.nets.image_generator import ImageGenerator

Normalization = Literal["batch", "none"]
Initialization = Literal["dcgan", "default"]


class Generator(ImageGenerator):
    """Maps noise to images: a projection, then transposed convolutions that double the size, with BatchNorm and ReLU.

    For 32x32 and width 64 the sizes are 4x4x512, 8x8x256, 16x16x128, 32x32x64 and the image. Other images start at
    ``ceil(size / 2^k)`` and are cropped.

    Args:
        image_shape: channels, height, width.
        num_classes: C; used if ``conditional``.
        latent_dim: length of the noise vector.
        width: channels before the last layer.
        conditional: whether the target label is part of the input.
        initialization: ``dcgan`` draws weights from N(0, 0.02); ``default`` keeps PyTorch's.
    """

    def __init__(
        self,
        image_shape: ImageShape,
        num_classes: int,
        latent_dim: int = 100,
        width: int = 64,
        conditional: bool = False,
        initialization: Initialization = "dcgan",
    ) -> None:
        super().__init__()
        self.image_shape, self.num_classes = image_shape, num_classes
        self.latent_dim, self.conditional = latent_dim, conditional
        doublings, start = _pyramid(image_shape)
        channels = [width * 2**level for level in range(doublings, -1, -1)]
        inputs = latent_dim + (num_classes if conditional else 0)
        layers: list[nn.Module] = [nn.ConvTranspose2d(inputs, channels[0], start, bias=False)]
        layers += [nn.BatchNorm2d(channels[0]), nn.ReLU(inplace=True)]
        for wide, narrow in pairwise(channels):
            layers.append(nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1, bias=False))
            layers += [nn.BatchNorm2d(narrow), nn.ReLU(inplace=True)]
        layers += [nn.Conv2d(channels[-1], image_shape[0], 3, padding=1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        if initialization == "dcgan":
            self.apply(initialise_dcgan)

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Generate images; see :class:`ImageGenerator`."""
        if self.conditional:
            if labels is None:
                raise ValueError("a conditional generator needs labels of shape (B,), got None")
            noise = torch.cat([noise, F.one_hot(labels, self.num_classes).to(noise.dtype)], dim=1)
        images: Tensor = self.layers(noise[:, :, None, None])
        _, height, width = self.image_shape
        return (images[:, :, :height, :width] + 1) / 2


class Discriminator(nn.Module):
    """Maps images to one logit: strided convolutions with LeakyReLU 0.2, the mirror of :class:`Generator`.

    Args:
        image_shape: channels, height, width.
        num_classes: C; used if ``conditional``.
        width: channels after the first convolution.
        normalization: ``batch`` uses BatchNorm from the second layer on (DCGAN); ``none`` leaves it out.
        conditional: whether the label is an input too, by projection (Miyato and Koyama 2018, arXiv 1802.05637).
        initialization: see :class:`Generator`.
    """

    def __init__(
        self,
        image_shape: ImageShape,
        num_classes: int,
        width: int = 64,
        normalization: Normalization = "batch",
        conditional: bool = False,
        initialization: Initialization = "dcgan",
    ) -> None:
        super().__init__()
        doublings, _ = _pyramid(image_shape)
        channels = [image_shape[0]] + [width * 2**level for level in range(doublings + 1)]
        layers: list[nn.Module] = [nn.Conv2d(channels[0], channels[1], 3, padding=1), nn.LeakyReLU(0.2)]
        for narrow, wide in pairwise(channels[1:]):
            normalized = normalization == "batch"
            layers.append(nn.Conv2d(narrow, wide, 4, stride=2, padding=1, bias=not normalized))
            if normalized:
                layers.append(nn.BatchNorm2d(wide))
            layers.append(nn.LeakyReLU(0.2))
        self.body = nn.Sequential(*layers, nn.Flatten())
        features = channels[-1] * (image_shape[1] >> doublings) * (image_shape[2] >> doublings)
        self.real = nn.Linear(features, 1)
        self.matches = nn.Embedding(num_classes, features) if conditional else None
        if initialization == "dcgan":
            self.apply(initialise_dcgan)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Map pixels ``(B, channels, H, W)`` and, if conditional, labels ``(B,)`` to logits ``(B,)``; real is > 0."""
        features = self.body(2 * images - 1)
        logits: Tensor = self.real(features).squeeze(1)
        if self.matches is not None:
            if labels is None:
                raise ValueError("a conditional discriminator needs labels of shape (B,), got None")
            logits = logits + (self.matches(labels) * features).sum(1) / math.sqrt(features.shape[1])
        return logits


def initialise_dcgan(module: nn.Module) -> None:
    """Draw weights from N(0, 0.02) and BatchNorm scales from N(1, 0.02), as DCGAN does."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def _pyramid(image_shape: ImageShape) -> tuple[int, tuple[int, int]]:
    """Return the number of doublings and the first size: 4 to 7 pixels on the shorter side, if that has 8.

    There is one doubling at least, but for images of a single row or column, which cannot be halved.
    """
    _, height, width = image_shape
    shorter = min(height, width)
    doublings = max(1 if shorter > 1 else 0, int(math.log2(shorter / 4)))
    return doublings, (math.ceil(height / 2**doublings), math.ceil(width / 2**doublings))
