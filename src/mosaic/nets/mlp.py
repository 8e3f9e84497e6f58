"""A network without convolutions."""

import math

from torch import nn

from mosaic.nets.classifier import Classifier, ImageShape
from mosaic.nets.slicing import narrower


class MLP(Classifier):
    """Two hidden layers with BatchNorm on the flattened image.

    Args:
        image_shape: channels, height, width.
        num_classes: C.
        width: units of both hidden layers.
    """

    def __init__(self, image_shape: ImageShape, num_classes: int, width: int = 64) -> None:
        super().__init__(image_shape, num_classes)
        self.body = nn.Sequential(nn.Flatten(), *_layer(math.prod(image_shape), width), *_layer(width, width))
        self.head = nn.Linear(width, num_classes)
        self.width = width

    def scaled(self, ratio: float) -> "MLP":
        """Return a fresh network of ``ceil(ratio * width)``."""
        return MLP(self.image_shape, self.num_classes, narrower(self.width, ratio))


def _layer(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()
