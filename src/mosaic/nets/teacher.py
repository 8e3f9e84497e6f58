"""The networks of a teacher: experts, and mixtures that combine them with a gate."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from mosaic.errors import MosaicError, kind_of
from mosaic.nets.classifier import Classifier

PrecisionBlock = Callable[[], AbstractContextManager[Any]]
"""Makes a context in which networks compute in some precision."""


class ImageExperts(nn.Module):
    """Experts that classify images, evaluated one after another.

    Args:
        experts: E classifiers; they may have different architectures.
        precision: makes a context for their forward passes; the logits returned have the dtype of the images.
    """

    def __init__(self, experts: Iterable[nn.Module], precision: PrecisionBlock = nullcontext) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)
        self._precision = precision

    def forward(self, images: Tensor) -> Tensor:
        """Map pixels ``(B, channels, H, W)`` to the experts' logits ``(B, E, C)``."""
        with self._precision():
            answers = [expert(images) for expert in self.experts]
        return torch.stack(answers, dim=1).to(images.dtype)


class FeatureExperts(nn.Module):
    """Linear heads of E experts on the features of one frozen trunk."""

    def __init__(self, trunk: Classifier, heads: Iterable[nn.Linear]) -> None:
        super().__init__()
        self.trunk = trunk
        heads = list(heads)
        self.weight = nn.Parameter(torch.stack([head.weight.detach() for head in heads]))
        self.bias = nn.Parameter(torch.stack([head.bias.detach() for head in heads]))

    def from_features(self, features: Tensor) -> Tensor:
        """Map features ``(B, F)`` to the heads' logits ``(B, E, C)``."""
        return torch.einsum("bf,ecf->bec", features, self.weight) + self.bias

    def forward(self, images: Tensor) -> Tensor:
        """Map pixels ``(B, channels, H, W)`` to the heads' logits ``(B, E, C)``."""
        return self.from_features(self.trunk.features(images))


class MixtureOfExperts(nn.Module):
    """Experts, which map images to ``(B, E, C)``, and a gate to ``(B, C)``, frozen and in eval mode.

    Args:
        experts: see above.
        gate: maps the experts' logits, and where there is a meta model its logits ``(B, C)`` too.
        meta: another model of all classes, see :class:`~mosaic.nets.gates.FusionGate`.
    """

    def __init__(self, experts: nn.Module, gate: nn.Module, meta: nn.Module | None = None) -> None:
        super().__init__()
        self.experts, self.gate, self.meta = experts, gate, meta
        self.eval()
        self.requires_grad_(False)

    def join(self, opinions: Tensor, images: Tensor) -> Tensor:
        """Map the experts' logits ``(B, E, C)`` on these images to the mixture's ``(B, C)``."""
        logits: Tensor = self.gate(opinions) if self.meta is None else self.gate(opinions, self.meta(images))
        expected = (opinions.shape[0], opinions.shape[2])
        got = tuple(logits.shape) if isinstance(logits, Tensor) else kind_of(logits)
        if got != expected:
            raise MosaicError(
                f"algorithm.teacher: expected logits of shape (B, C), here {expected}, of {type(self.gate).__name__}, "
                f"got {got}"
            )
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Map pixels ``(B, channels, H, W)`` to the mixture's logits ``(B, C)``."""
        return self.join(self.experts(images), images)


class NoOpinion(nn.Module):
    """A meta model with equal logits for all classes, where there is no other."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, images: Tensor) -> Tensor:
        """Map pixels ``(B, channels, H, W)`` to zeros ``(B, C)``."""
        return images.new_zeros(len(images), self.num_classes)


class ExpertsAndMixtures(nn.Module):
    """All experts and some of their mixtures side by side; each expert runs only once."""

    def __init__(self, experts: nn.Module, mixtures: Sequence[MixtureOfExperts]) -> None:
        super().__init__()
        self.experts = experts
        self.mixtures = nn.ModuleList(mixtures)

    def forward(self, images: Tensor) -> Tensor:
        """Map pixels ``(B, channels, H, W)`` to logits ``(B, E + mixtures, C)``."""
        opinions = self.experts(images)
        joined = [cast(MixtureOfExperts, mixture).join(opinions, images) for mixture in self.mixtures]
        return torch.cat([opinions, *(logits[:, None] for logits in joined)], dim=1)
