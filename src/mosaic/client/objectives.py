"""Local objectives: what a client minimises, bound to what it has received and what it holds."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from mosaic.losses.local import prior_adjusted_cross_entropy
from mosaic.messages import StateDict
from mosaic.nets.blueprint import Blueprint
from mosaic.nets.classifier import Classifier
from mosaic.priors import label_prior
from mosaic.tasks.classification import LocalLoss


@dataclass(frozen=True)
class LocalContext:
    """What an objective may know.

    Attributes:
        received: weights as the server sent them.
        class_counts: the client's training images per class, shape ``(C,)``.
        blueprint: builds a network from ``received``, for objectives that compare with it.
    """

    received: StateDict
    class_counts: Tensor
    blueprint: Blueprint


class LocalObjective(ABC):
    """Makes the loss of one client in one round."""

    adjusts_prior: bool = False
    """Whether the trained logits already have the client's label prior taken out."""

    @abstractmethod
    def bind(self, context: LocalContext) -> LocalLoss:
        """Return a function of network, pixels ``(B, channels, H, W)`` and labels ``(B,)`` to a scalar."""


class CrossEntropy(LocalObjective):
    """Plain cross-entropy: FedAvg's objective (McMahan et al. 2017, arXiv 1602.05629)."""

    def bind(self, context: LocalContext) -> LocalLoss:
        """Return cross-entropy; nothing of the context matters."""

        def loss(net: Classifier, images: Tensor, labels: Tensor) -> Tensor:
            return F.cross_entropy(net(images), labels)

        return loss


class PriorAdjusted(LocalObjective):
    """Cross-entropy with the client's label prior added to the logits (arXiv 2007.07314).

    Args:
        epsilon: images of every class that the client is credited with.
    """

    adjusts_prior = True

    def __init__(self, epsilon: float = 0.01) -> None:
        self.epsilon = epsilon

    def bind(self, context: LocalContext) -> LocalLoss:
        """Return the adjusted loss of this client."""
        prior = label_prior(context.class_counts, self.epsilon)

        def loss(net: Classifier, images: Tensor, labels: Tensor) -> Tensor:
            return prior_adjusted_cross_entropy(net(images), labels, prior.to(labels.device))

        return loss
