"""Networks: classifiers with features and a head, generators, gates and mixtures of experts."""

from mosaic.nets.blueprint import Blueprint
from mosaic.nets.classifier import Classifier
from mosaic.nets.dcgan import Discriminator, Generator
from mosaic.nets.mlp import MLP
from mosaic.nets.resnet import ResNet18
from mosaic.nets.slicing import FirstChannels, RandomChannels, RollingWindow
from mosaic.nets.small_cnn import SmallCNN
from mosaic.nets.torchvision_net import TorchvisionNet

__all__ = [
    "MLP", "Blueprint", "Classifier", "Discriminator", "FirstChannels", "Generator", "RandomChannels", "ResNet18",
    "RollingWindow", "SmallCNN", "TorchvisionNet",
]  # fmt: skip
