"""Local objectives: the losses that clients minimise, bound to the received model and the client's data."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor
from torch.nn import functional as F

from mosaic.errors import require_at_least_zero, require_positive, require_share
from mosaic.losses.local import (
    logit_suppression,
    prior_adjusted_cross_entropy,
    proximal_term,
    restricted_cross_entropy,
    restriction_scales,
    vacant_class_distillation,
)
from mosaic.losses.priors import label_prior
from mosaic.messages import StateDict
from mosaic.nets.blueprint import Blueprint
from mosaic.nets.classifier import Classifier
from mosaic.tasks.classification import LocalLoss
from mosaic.transfer import bring, send

SECTION = "algorithm.objective.init_args"
"""Key of an objective's settings in the configuration."""


@dataclass(frozen=True)
class LocalContext:
    """What an objective may use.

    Attributes:
        received: initial weights of local training: those that the server sent, and those that the client keeps.
        class_counts: the client's training images per class, shape ``(C,)``; with replay, as its batches have them.
        blueprint: builds a network from ``received``.
    """

    received: StateDict
    class_counts: Tensor
    blueprint: Blueprint


class LocalObjective(ABC):
    """Makes the loss of one client in one round."""

    adjusts_prior: bool = False
    """Whether the trained logits already exclude the client's label prior."""
    same_for_all: bool = False
    """Whether the loss is one function of logits and labels, whoever the client is; said anew beside each ``bind``."""

    def __init_subclass__(cls) -> None:
        """Believe the flag only where it stands beside the loss."""
        super().__init_subclass__()
        if "bind" in vars(cls) and "same_for_all" not in vars(cls):
            cls.same_for_all = False

    @abstractmethod
    def bind(self, context: LocalContext) -> LocalLoss:
        """Return a function of network, pixels ``(B, channels, H, W)`` and labels ``(B,)`` that gives a scalar."""


class CrossEntropy(LocalObjective):
    """Plain cross-entropy: FedAvg's objective (McMahan et al. 2017, arXiv 1602.05629)."""

    same_for_all = True

    def bind(self, context: LocalContext) -> LocalLoss:
        """Return cross-entropy, whatever the context."""

        def loss(net: Classifier, images: Tensor, labels: Tensor) -> Tensor:
            return F.cross_entropy(net(images), labels)

        return loss


class PriorAdjusted(LocalObjective):
    """Cross-entropy with the client's label prior added to the logits (arXiv 2007.07314).

    Args:
        epsilon: images added to the count of every class; must be positive.
    """

    adjusts_prior = True

    def __init__(self, epsilon: float = 0.01) -> None:
        require_positive(SECTION, epsilon=epsilon)
        self.epsilon = epsilon

    def bind(self, context: LocalContext) -> LocalLoss:
        """Return the adjusted loss of this client."""
        prior = cache(partial(send, label_prior(context.class_counts, self.epsilon)))

        def loss(net: Classifier, images: Tensor, labels: Tensor) -> Tensor:
            return prior_adjusted_cross_entropy(net(images), labels, prior(labels.device))

        return loss


class Proximal(LocalObjective):
    """FedProx: cross-entropy that keeps the client near the received model (Li et al. 2020, arXiv 1812.06127, Eq. 2).

    ``CE + mu / 2 * ||theta_i - theta||^2``; with mu 0 this is :class:`CrossEntropy` exactly.

    Args:
        mu: weight of :func:`~mosaic.losses.local.proximal_term`, at least 0 (0.01 is the best of 0.001, 0.01, 0.1 and 1
            on CIFAR-10 in Li, He and Song 2021, arXiv 2103.16257; 0.001 on CIFAR-100 and Tiny-ImageNet).
    """

    def __init__(self, mu: float = 0.01) -> None:
        require_at_least_zero(SECTION, mu=mu)
        self.mu = mu

    def bind(self, context: LocalContext) -> LocalLoss:
        """Return the loss of this client around the model that it has received."""
        received = context.blueprint.build(context.received) if self.mu > 0 else None

        def loss(net: Classifier, images: Tensor, labels: Tensor) -> Tensor:
            total = F.cross_entropy(net(images), labels)
            if received is not None:  # buffers are excluded; frozen parameters have not moved
                start = bring(received, images.device).parameters()
                total = total + self.mu * proximal_term(net.parameters(), start)
            return total

        return loss


class RestrictedSoftmax(LocalObjective):
    """FedRS: cross-entropy with logits scaled by how often the client sees each class (Li and Zhan, KDD 2021).

    Only training is restricted; predictions use the logits as they are. With alpha 1 this is :class:`CrossEntropy`
    exactly.

    Args:
        alpha: scale of the logits of absent classes, in ``[0, 1]`` (0.5 is the middle of the 0.1 to 0.9 that the
            released code tries).
    """

    def __init__(self, alpha: float = 0.5) -> None:
        require_share(SECTION, alpha=alpha)
        self.alpha = alpha

    def bind(self, context: LocalContext) -> LocalLoss:
        """Return the restricted loss of this client."""
        scales = cache(partial(send, restriction_scales(context.class_counts, self.alpha)))

        def loss(net: Classifier, images: Tensor, labels: Tensor) -> Tensor:
            return restricted_cross_entropy(net(images), labels, scales(labels.device))

        return loss


class VacantClass(LocalObjective):
    """FedVLS: prior-adjusted cross-entropy that preserves the global model's knowledge of absent classes.

    ``CE(z + log pi) + suppression * logit suppression + distillation * vacant-class distillation`` (Guo et al. 2025,
    arXiv 2401.02329); a term with weight 0 is left out. With both weights 0 this is :class:`PriorAdjusted` exactly, and
    also without the adjustment it is :class:`CrossEntropy`.

    Args:
        suppression: weight of :func:`~mosaic.losses.local.logit_suppression` (the paper's 0.005).
        distillation: weight of :func:`~mosaic.losses.local.vacant_class_distillation` (the paper's 0.1 on CIFAR-10; 0.5
            on CIFAR-100). The received model also runs on every batch, unless fewer than two classes are absent.
        epsilon: images added to the count of every class in pi; must be positive.
        adjust_prior: whether to adjust the cross-entropy (the paper does); suppression uses pi either way.
    """

    def __init__(
        self,
        suppression: float = 0.005,
        distillation: float = 0.1,
        epsilon: float = 0.01,
        adjust_prior: bool = True,
    ) -> None:
        require_at_least_zero(SECTION, suppression=suppression, distillation=distillation)
        require_positive(SECTION, epsilon=epsilon)
        self.suppression, self.distillation = suppression, distillation
        self.epsilon = epsilon
        self.adjusts_prior = adjust_prior

    def bind(self, context: LocalContext) -> LocalLoss:
        """Return the loss of this client against the model that it has received."""
        prior = cache(partial(send, label_prior(context.class_counts, self.epsilon)))
        without = (context.class_counts == 0).nonzero().squeeze(1)
        absent, received = cache(partial(send, without)), None
        if self.distillation > 0 and len(without) > 1:  # the softmax over one class is constant
            received = context.blueprint.build(context.received).eval()

        def loss(net: Classifier, images: Tensor, labels: Tensor) -> Tensor:
            logits, pi = net(images), prior(labels.device)
            adjusted = self.adjusts_prior
            total = prior_adjusted_cross_entropy(logits, labels, pi) if adjusted else F.cross_entropy(logits, labels)
            if self.suppression > 0:
                total = total + self.suppression * logit_suppression(logits, labels, pi)
            if received is not None:
                with torch.no_grad():
                    global_logits = bring(received, images.device)(images)
                total = total + self.distillation * vacant_class_distillation(
                    logits, global_logits, absent(images.device)
                )
            return total

        return loss
