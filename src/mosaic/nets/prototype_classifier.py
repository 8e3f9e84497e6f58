"""A classifier made of prototypes: a linear head and a kernel on the features of a frozen network."""

import copy

import torch
from torch import Tensor, nn

from mosaic.nets.classifier import Classifier


class PrototypeKernel(nn.Module):
    """Kernel classifier: every prototype votes for its class, the nearer the louder, all classes alike.

    The width of the Gaussian is ``0.7`` times the median distance of a prototype to its nearest neighbour.

    Args:
        prototypes: standardised features, shape ``(P, F)``, at least one.
        labels: shape ``(P,)``.
        num_classes: C.
    """

    prototypes: Tensor
    votes: Tensor
    width: Tensor

    def __init__(self, prototypes: Tensor, labels: Tensor, num_classes: int, relative_width: float = 0.7) -> None:
        super().__init__()
        counts = torch.bincount(labels, minlength=num_classes).float().clamp(min=1)
        distances = torch.cdist(prototypes, prototypes).fill_diagonal_(torch.inf)
        nearest = distances.min(1).values if len(prototypes) > 1 else torch.ones(1)
        self.register_buffer("prototypes", prototypes)
        self.register_buffer("votes", nn.functional.one_hot(labels, num_classes).float() / counts)
        self.register_buffer("width", (relative_width * nearest.median()).clamp(min=1e-6))

    def forward(self, features: Tensor) -> Tensor:
        """Map standardised features ``(B, F)`` to class probabilities ``(B, C)``; far from all, the nearest decides."""
        exponents = -0.5 * (torch.cdist(features, self.prototypes) / self.width) ** 2
        scores: Tensor = exponents.softmax(-1) @ self.votes
        return scores / scores.sum(-1, keepdim=True)


class PrototypeClassifier(nn.Module):
    """The mean of a linear head and a kernel classifier, both made from the clients' prototypes.

    Args:
        trunk: the network whose features the prototypes are; it is frozen.
        mean: of the prototypes, shape ``(F,)``.
        std: of the prototypes, shape ``(F,)``.
        head: linear, on standardised features.
        kernel: on standardised features.
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
        """Return the network with the linear head in the place of its own, without the kernel."""
        net, folded = copy.deepcopy(self.trunk), folded_head(self.head, self.mean, self.std)
        weight, bias = folded["head.weight"], folded["head.bias"]
        net.head = nn.Linear(weight.shape[1], weight.shape[0])  # whatever the network's own head is
        net.head.weight, net.head.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)
        return net


def folded_head(head: nn.Linear, mean: Tensor, std: Tensor) -> dict[str, Tensor]:
    """Fold the standardisation of its inputs into a linear layer.

    Args:
        head: maps standardised features ``(B, F)`` to logits.
        mean: of the features, shape ``(F,)``.
        std: of the features, shape ``(F,)``, positive.

    Returns:
        ``head.weight`` and ``head.bias`` of a layer that gives the same logits for the features themselves.
    """
    weight = head.weight.detach() / std
    return {"head.weight": weight, "head.bias": head.bias.detach() - weight @ mean}
