"""A small convolutional network for small images on CPUs."""

import math
from typing import Literal

from torch import nn

from mosaic.errors import require_choice
from mosaic.nets.classifier import Classifier, ImageShape
from mosaic.nets.slicing import narrower

Norm = Literal["batch", "group"]


class SmallCNN(Classifier):
    """Three 3x3 convolutions, each with a normalisation, two of them with stride 2, and one hidden linear layer.

    At this size strides instead of pooling halve the time of a step.

    Args:
        image_shape: channels, height, width.
        num_classes: C.
        width: channels of the first convolution; the others have twice as many channels, and the features are four
            times as many. 16 gives about 23,000 parameters on 8x8 grey images.
        norm: ``batch``, or ``group`` for training in which no image may see another, as DP-SGD.
    """

    def __init__(self, image_shape: ImageShape, num_classes: int, width: int = 16, norm: Norm = "batch") -> None:
        super().__init__(image_shape, num_classes)
        require_choice("model.net.init_args", Norm, norm=norm)
        height, breadth = (math.ceil(side / 4) for side in image_shape[1:])  # after two strides
        window = math.ceil(height / 4), math.ceil(breadth / 4)
        pooled = math.ceil(height / window[0]) * math.ceil(breadth / window[1])
        self.body = nn.Sequential(
            *_block(image_shape[0], width, stride=1, norm=norm),
            *_block(width, 2 * width, stride=2, norm=norm),
            *_block(2 * width, 2 * width, stride=2, norm=norm),
            nn.AvgPool2d(window, ceil_mode=True),
            nn.Flatten(),
            nn.Linear(2 * width * pooled, 4 * width),
            nn.ReLU(),
        )
        self.head = nn.Linear(4 * width, num_classes)
        self.width, self.norm = width, norm
        self.input_blocks = {"body.11.weight": pooled}

    def scaled(self, ratio: float) -> "SmallCNN":
        """Return a fresh network of ``ceil(ratio * width)``."""
        return SmallCNN(self.image_shape, self.num_classes, narrower(self.width, ratio), self.norm)


def _block(inputs: int, outputs: int, stride: int, norm: Norm) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    normalisation = nn.BatchNorm2d(outputs) if norm == "batch" else nn.GroupNorm(math.gcd(8, outputs), outputs)
    return convolution, normalisation, nn.ReLU()
