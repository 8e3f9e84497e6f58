"""How to build the classifier of a run: what the server and every client agree on beforehand."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from mosaic.nets.batchnorm import batch_norm_tensors, batch_norms
from mosaic.nets.classifier import Classifier, ImageShape

ClassifierFactory = Callable[[ImageShape, int], Classifier]
"""Makes a classifier from image shape and number of classes; in YAML a ``class_path`` with its other arguments."""


@dataclass(frozen=True)
class Blueprint:
    """The public facts that a classifier is built from.

    Attributes:
        factory: makes the network.
        image_shape: channels, height, width.
        num_classes: C.
        mean: pixel mean per channel in ``[0, 1]``.
        std: pixel standard deviation per channel.
    """

    factory: ClassifierFactory
    image_shape: ImageShape
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def initial(self, seed: int) -> dict[str, Tensor]:
        """Return freshly initialised weights; the same seed gives the same weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = self.factory(self.image_shape, self.num_classes)
        net.normalize.set(torch.tensor(self.mean), torch.tensor(self.std))
        return net.state_dict()

    def build(self, state: dict[str, Tensor]) -> Classifier:
        """Return a classifier with a copy of these weights."""
        net: Classifier = pickle.loads(self._empty)
        net.load_state_dict({name: tensor.detach().clone() for name, tensor in state.items()}, assign=True)
        for module, name, buffer in self._unsaved:
            net.get_submodule(module).register_buffer(name, buffer.clone(), persistent=False)
        return net

    def scaled(self, ratio: float) -> "Blueprint":
        """Return the blueprint of the same network with about ``ratio`` of the channels in every hidden layer.

        What its convolutions and hidden linear layers give is divided by ``ratio`` (HeteroFL's scaler, Diao et al.
        2021, arXiv 2010.01264), so that running statistics fit the wide network, whose sums have more terms.
        **Deviation:** in evaluation too, since a narrow network is an expert here, not only a part of the wide one.
        """
        return self if ratio == 1 else replace(self, factory=partial(_scaled, self.factory, ratio))

    def with_factory(self, factory: ClassifierFactory) -> "Blueprint":
        """Return the blueprint of another network for the same images."""
        return replace(self, factory=factory)

    @cached_property
    def input_blocks(self) -> dict[str, int]:
        """See :attr:`Classifier.input_blocks`."""
        return self._blank.input_blocks

    @cached_property
    def shapes(self) -> dict[str, torch.Size]:
        """Shape of every parameter and buffer by name."""
        return {name: tensor.shape for name, tensor in self._blank.state_dict().items()}

    @cached_property
    def batch_norms(self) -> list[str]:
        """Where the network's BatchNorm layers with running statistics are."""
        return list(batch_norms(self._blank))

    @cached_property
    def batch_norm_tensors(self) -> frozenset[str]:
        """Names of all parameters and buffers of the network's BatchNorm layers."""
        return batch_norm_tensors(self._blank)

    @cached_property
    def _empty(self) -> bytes:
        """The pickled network without any values: unpickling is many times faster than a deep copy."""
        return pickle.dumps(copy.deepcopy(self._blank).to("meta"))

    @cached_property
    def _unsaved(self) -> list[tuple[str, str, Tensor]]:
        """Buffers that a state dict leaves out: module, name and value."""
        saved = self._blank.state_dict().keys()
        parted = ((path.rpartition("."), buffer) for path, buffer in self._blank.named_buffers() if path not in saved)
        return [(module, name, buffer) for (module, _, name), buffer in parted]

    @cached_property
    def _blank(self) -> Classifier:
        with torch.random.fork_rng(devices=[]):
            return self.factory(self.image_shape, self.num_classes)


def _scaled(factory: ClassifierFactory, ratio: float, image_shape: ImageShape, num_classes: int) -> Classifier:
    net = factory(image_shape, num_classes).scaled(ratio)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module is not net.head:
            module.register_forward_hook(partial(_divide, ratio))
    return net


def _divide(ratio: float, _module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    return output / ratio
