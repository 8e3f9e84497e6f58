"""Mean and standard deviation of pixels per channel."""

import torch
from torch import Tensor

from mosaic.data.images import Images

_LEVELS = torch.arange(256, dtype=torch.float64) / 255
SMALLEST_DEVIATION = 1 / 255
"""One grey level: a channel whose pixels are all alike is divided by this, and noise in it is not blown up."""


def pixel_statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of pixels in ``[0, 1]``, computed from histograms."""
    histograms = _histograms(images, torch.arange(len(images)))
    shares = histograms / histograms.sum(1, keepdim=True)
    means = shares @ _LEVELS
    variances = (shares * (_LEVELS - means[:, None]) ** 2).sum(1)
    return tuple(means.tolist()), tuple(variances.sqrt().clamp(min=SMALLEST_DEVIATION).tolist())


def pixel_sums(images: Images, indices: Tensor) -> Tensor:
    """Return number, sum and sum of squares of some images' pixels in ``[0, 1]`` per channel, shape ``(3, c)``."""
    return torch.stack([_LEVELS**0, _LEVELS, _LEVELS**2]) @ _histograms(images, indices).T


def _histograms(images: Images, indices: Tensor) -> Tensor:
    histograms = torch.zeros(images.shape[0], 256, dtype=torch.float64)
    for chosen in indices.split(4096):  # mapped images may exceed the memory
        for histogram, channel in zip(histograms, images.pixels[chosen].unbind(1), strict=True):
            histogram += torch.bincount(channel.flatten(), minlength=256)
    return histograms
