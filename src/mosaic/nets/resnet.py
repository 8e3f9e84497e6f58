"""ResNets for small images, made of torchvision's blocks."""

from torch import nn
from torchvision.models.resnet import BasicBlock

from mosaic.nets.classifier import Classifier, ImageShape
from mosaic.nets.slicing import narrower


class ResNet18(Classifier):
    """ResNet-18 with a CIFAR stem (He et al. 2016, arXiv 1512.03385).

    The first convolution is 3x3 with stride 1 and there is no max-pooling, as is usual for 32x32 images.

    Args:
        image_shape: channels, height, width.
        num_classes: C.
        width: channels of the first stage; each later stage doubles them. 64 gives 11.2 million parameters.
    """

    def __init__(self, image_shape: ImageShape, num_classes: int, width: int = 64) -> None:
        super().__init__(image_shape, num_classes)
        self.body = nn.Sequential(
            nn.Conv2d(image_shape[0], width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            _stage(width, width, stride=1),
            _stage(width, 2 * width, stride=2),
            _stage(2 * width, 4 * width, stride=2),
            _stage(4 * width, 8 * width, stride=2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(8 * width, num_classes)
        self.width = width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def scaled(self, ratio: float) -> "ResNet18":
        """Return a fresh network of ``ceil(ratio * width)``."""
        return ResNet18(self.image_shape, self.num_classes, narrower(self.width, ratio))


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
    return nn.Sequential(BasicBlock(inputs, outputs, stride, shortcut), BasicBlock(outputs, outputs))
