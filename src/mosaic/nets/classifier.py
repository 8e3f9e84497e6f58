"""The interface of all image classifiers: normalisation, features and a linear head."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

ImageShape = tuple[int, int, int]
"""Channels, height and width of an image."""


class Normalize(nn.Module):
    """Normalise pixels per channel *inside* the network, so that all networks take pixels in ``[0, 1]``."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def set(self, mean: Tensor, std: Tensor) -> None:
        """Set mean and standard deviation of pixels in ``[0, 1]``, each of shape ``(channels,)``."""
        self.mean.copy_(mean)
        self.std.copy_(std)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise pixels of shape ``(B, channels, H, W)``."""
        if not images.is_floating_point():
            raise TypeError(f"expected pixels as floating point in [0, 1], got {images.dtype}: divide them by 255")
        return (images - self.mean[:, None, None]) / self.std[:, None, None]


def versioned(net: nn.Module, tensors: Mapping[str, Tensor]) -> "OrderedDict[str, Tensor]":
    """Add the version metadata of ``state_dict`` to a network's tensors, which some networks of torchvision need."""
    state: Any = OrderedDict(tensors)
    state._metadata = net.state_dict()._metadata  # type: ignore[attr-defined]
    return cast("OrderedDict[str, Tensor]", state)


class Classifier(nn.Module):
    """An image classifier ``f = head(features(x))``.

    A subclass sets ``body`` (normalised images to features) and ``head`` (features to logits) in its constructor,
    whose first two arguments are ``image_shape`` and ``num_classes``.

    Args:
        image_shape: channels, height, width.
        num_classes: C.

    Attributes:
        input_blocks: block size of each weight whose inputs come in blocks, one for each channel of the layer before:
            the linear layer after flattened feature maps.
    """

    body: nn.Module
    head: nn.Linear

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.num_classes = num_classes
        self.normalize = Normalize(image_shape[0])
        self.input_blocks: dict[str, int] = {}

    def scaled(self, ratio: float) -> "Classifier":
        """Return a fresh network of the same kind with about ``ratio`` of the channels in every hidden layer.

        Raises:
            NotImplementedError: the network cannot be scaled.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how it is scaled: override Classifier.scaled")

    def features(self, images: Tensor) -> Tensor:
        """Map pixels in ``[0, 1]``, shape ``(B, channels, H, W)``, to features of shape ``(B, F)``."""
        features: Tensor = self.body(self.normalize(images))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Map pixels in ``[0, 1]``, shape ``(B, channels, H, W)``, to logits of shape ``(B, C)``."""
        logits: Tensor = self.head(self.features(images))
        return logits
