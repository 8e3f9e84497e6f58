"""A classifier from prototypes: a linear head and a kernel on the features of a frozen network."""

import copy
from types import MethodType

import torch
from torch import Tensor, nn

from mosaic.nets.classifier import Classifier

_RELATIVE_WIDTH = 0.7


class PrototypeKernel(nn.Module):
    """Gaussian kernel classifier: prototypes vote for their classes, weighted by distance; all classes count equally.

    The width of the Gaussian is ``0.7`` times the median distance of a prototype to its nearest neighbour.

    Args:
        prototypes: standardised features, shape ``(P, F)``, at least one.
        labels: shape ``(P,)``.
        num_classes: C.
    """

    prototypes: Tensor
    votes: Tensor
    width: Tensor

    def __init__(self, prototypes: Tensor, labels: Tensor, num_classes: int) -> None:
        super().__init__()
        counts = torch.bincount(labels, minlength=num_classes).float().clamp(min=1)
        nearest = _nearest_others(prototypes) if len(prototypes) > 1 else torch.ones(1)
        self.register_buffer("prototypes", prototypes)
        self.register_buffer("votes", nn.functional.one_hot(labels, num_classes).float() / counts)
        self.register_buffer("width", (_RELATIVE_WIDTH * nearest.median()).clamp(min=1e-6))

    def forward(self, features: Tensor) -> Tensor:
        """Map standardised features ``(B, F)`` to probabilities ``(B, C)``; far from all, the nearest decides."""
        exponents = -0.5 * (torch.cdist(features, self.prototypes) / self.width) ** 2
        scores: Tensor = exponents.softmax(-1) @ self.votes
        return scores / scores.sum(-1, keepdim=True)


def _nearest_others(points: Tensor, chunk: int = 1024) -> Tensor:
    """Return the distance of each of several points ``(P, F)`` to the nearest other one, shape ``(P,)``."""
    nearest = []
    for start, rows in zip(range(0, len(points), chunk), points.split(chunk), strict=True):
        distances = torch.cdist(rows, points)  # all rows at once take memory with the square of their number
        distances[:, start:].fill_diagonal_(torch.inf)
        nearest.append(distances.min(1).values)
    return torch.cat(nearest)


class PrototypeClassifier(nn.Module):
    """The mean of a linear head and a kernel classifier, both made from the clients' prototypes.

    Args:
        trunk: the network that gives the features; it is frozen.
        mean: mean of the prototypes, shape ``(F,)``.
        std: standard deviation of the prototypes, shape ``(F,)``.
        head: linear head on standardised features.
        kernel: classifier on standardised features.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, trunk: Classifier, mean: Tensor, std: Tensor, head: nn.Linear, kernel: nn.Module) -> None:
        super().__init__()
        self.trunk, self.head, self.kernel = trunk, head, kernel
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.eval()
        self.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Map pixels ``(B, channels, H, W)`` to log-probabilities ``(B, C)``."""
        features = (self.trunk.features(images) - self.mean) / self.std
        probabilities = (self.head(features).softmax(-1) + self.kernel(features)) / 2
        logits: Tensor = probabilities.clamp(min=1e-12).log()
        return logits

    def linear_part(self) -> Classifier:
        """Return the network with this linear head instead of its own, without the kernel.

        The standardisation of features is folded into it.
        """
        net, weight = copy.deepcopy(self.trunk), self.head.weight.detach() / self.std
        bias = self.head.bias.detach() - weight @ self.mean
        net.head = nn.Linear(weight.shape[1], weight.shape[0])  # the network's own head may be of any kind
        net.head.weight, net.head.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)
        net.forward = MethodType(Classifier.forward, net)  # type: ignore[method-assign]  # its own may know no head
        return net
