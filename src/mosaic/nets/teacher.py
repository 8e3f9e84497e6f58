"""The teacher: experts, what they see, and the gate that joins them."""

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from mosaic.nets.classifier import Classifier

PrecisionBlock = Callable[[], AbstractContextManager[Any]]
"""Makes a block in which networks answer in some precision."""


class ImageExperts(nn.Module):
    """Full experts that look at the image.

    Args:
        experts: E classifiers; they may have different architectures.
        precision: makes a block in which they answer; what joins their answers gets the images' type.
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


class StackedExperts(nn.Module):
    """Full experts of one architecture, evaluated side by side by ``torch.func`` instead of one after another.

    Whether that is faster depends on the device: on two CPU cores it took 1.3 to 3 times as long as a loop. Answers
    agree with those of :class:`ImageExperts` up to rounding, and are float32 where those have another precision:
    PyTorch's rules for stacking do not cover mixed precision everywhere.

    Args:
        experts: E classifiers that differ in nothing but their weights.
        chunk: experts at a time; their activations are held together.
    """

    def __init__(self, experts: Sequence[nn.Module], chunk: int = 10) -> None:
        super().__init__()
        parameters, buffers = stack_module_state(list(experts))
        self._names = {name: name.replace(".", "/") for name in (*parameters, *buffers)}
        for name, tensor in parameters.items():
            self.register_parameter(self._names[name], nn.Parameter(tensor.detach(), requires_grad=False))
        for name, tensor in buffers.items():
            self.register_buffer(self._names[name], tensor)
        self._skeleton = [copy.deepcopy(experts[0]).to("meta").eval()]  # in a list: its weights are not this module's
        self._chunk = chunk

    def forward(self, images: Tensor) -> Tensor:
        """Map pixels ``(B, channels, H, W)`` to the experts' logits ``(B, E, C)``."""
        weights = {name: getattr(self, ours) for name, ours in self._names.items()}

        def one(own: dict[str, Tensor]) -> Tensor:
            logits: Tensor = functional_call(self._skeleton[0], own, (images,))
            return logits

        return vmap(one, out_dims=1, chunk_size=self._chunk)(weights)


class FeatureExperts(nn.Module):
    """Heads of experts on the features of one frozen trunk; the experts' bodies play no part.

    Args:
        trunk: the classifier whose features are shared.
        heads: E linear heads on its features.
    """

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
    """Experts and a gate, frozen and in eval mode.

    Args:
        experts: images to ``(B, E, C)``.
        gate: ``(B, E, C)`` to ``(B, C)``.
    """

    def __init__(self, experts: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.experts = experts
        self.gate = gate
        self.eval()
        self.requires_grad_(False)

    def join(self, opinions: Tensor, images: Tensor) -> Tensor:
        """Map the experts' logits ``(B, E, C)`` on these images to the mixture's ``(B, C)``."""
        logits: Tensor = self.gate(opinions)
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Map pixels ``(B, channels, H, W)`` to the mixture's logits ``(B, C)``."""
        return self.join(self.experts(images), images)


class FusedMixture(MixtureOfExperts):
    """Experts joined with a meta model by a :class:`~mosaic.nets.gates.FusionGate`, frozen and in eval mode.

    Args:
        experts: images to ``(B, E, C)``.
        meta: images to ``(B, C)``.
        gate: joins both.
    """

    def __init__(self, experts: nn.Module, meta: nn.Module, gate: nn.Module) -> None:
        super().__init__(experts, gate)
        self.meta = meta
        self.eval()
        self.requires_grad_(False)

    def join(self, opinions: Tensor, images: Tensor) -> Tensor:
        """Map the experts' logits ``(B, E, C)`` on these images to the mixture's ``(B, C)``."""
        logits: Tensor = self.gate(opinions, self.meta(images))
        return logits


class NoOpinion(nn.Module):
    """A meta model that holds all classes for alike, where clients have no features in common to learn one from.

    Args:
        num_classes: C.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, images: Tensor) -> Tensor:
        """Map pixels ``(B, channels, H, W)`` to zeros ``(B, C)``."""
        return images.new_zeros(len(images), self.num_classes)


class SideBySide(nn.Module):
    """All experts and some of their mixtures side by side, for the price of the experts alone.

    Args:
        experts: images to ``(B, E, C)``.
        mixtures: of these experts.
    """

    def __init__(self, experts: nn.Module, mixtures: Sequence[MixtureOfExperts]) -> None:
        super().__init__()
        self.experts = experts
        self.mixtures = nn.ModuleList(mixtures)

    def forward(self, images: Tensor) -> Tensor:
        """Map pixels ``(B, channels, H, W)`` to logits ``(B, E + mixtures, C)``."""
        opinions = self.experts(images)
        joined = [cast(MixtureOfExperts, mixture).join(opinions, images) for mixture in self.mixtures]
        return torch.cat([opinions, *(logits[:, None] for logits in joined)], dim=1)
