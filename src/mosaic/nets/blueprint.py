"""The public facts from which the server and every client build the classifier of a run."""

import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from mosaic.errors import MosaicError, first_line
from mosaic.nets.batchnorm import batch_norm_tensors, batch_norms
from mosaic.nets.classifier import Classifier, ImageShape

ClassifierFactory = Callable[[ImageShape, int], Classifier]
"""Makes a classifier from image shape and number of classes; in YAML a ``class_path`` and its other arguments."""
_FUSED = (nn.MultiheadAttention, nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell)


@dataclass(frozen=True)
class Blueprint:
    """Builds a classifier.

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
        if not isinstance(net, Classifier):
            raise MosaicError(
                f"expected a network of class mosaic.nets.Classifier, got {type(net).__name__}: make it a subclass, "
                "with a body and a head; those of torchvision are mosaic.nets.TorchvisionNet, with their name"
            )
        net.normalize.set(torch.tensor(self.mean), torch.tensor(self.std))
        state: dict[str, Tensor] = net.state_dict()
        for name, value in state.items():
            if not isinstance(value, Tensor):
                raise MosaicError(
                    f"expected tensors in its state_dict(), got {type(value).__name__} in {name}: keep it in a buffer"
                )
        return state

    def build(self, state: dict[str, Tensor]) -> Classifier:
        """Return a classifier with a copy of these weights.

        Raises:
            ValueError: the names or shapes of the weights differ from those of this network.
        """
        if state.keys() != self.shapes.keys():
            raise ValueError(f"weights of another network: {', '.join(sorted(state.keys() ^ self.shapes.keys()))}")
        for name, shape in self.shapes.items():
            if (got := tuple(state[name].shape)) != shape:
                raise ValueError(f"weights of another network: {name} has {got}, not {tuple(shape)}")
        weights = {name: tensor.detach().clone() for name, tensor in state.items()}
        for name, learns in self._parameters.items():
            weights[name] = nn.Parameter(weights[name], requires_grad=learns)
        net: Classifier = _Reader(io.BytesIO(self._empty), weights).load()
        return net

    def scaled(self, ratio: float) -> "Blueprint":
        """Return the blueprint of the same network with about ``ratio`` of the channels in every hidden layer.

        The outputs of its convolutions and hidden linear layers are divided by the share of channels that they sum over
        (HeteroFL's scaler, Diao et al. 2021, arXiv 2010.01264), so that running statistics fit the wide network, whose
        sums have more terms. **Deviations:** also in evaluation, since a narrow network serves as an expert too; not
        where the image itself comes in, whose channels are all there: HeteroFL, which divides there too, averages no
        running statistics.
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
    def num_features(self) -> int:
        """Length of the vector of features of an image."""
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            features = self.build(self.initial(seed=0)).eval().features(torch.zeros(1, *self.image_shape))
        return features.shape[1]

    @cached_property
    def fused(self) -> frozenset[str]:
        """Names of the parameters of attention and recurrent layers that hold several weights side by side."""
        layers = ((name, each) for name, each in self._blank.named_modules() if isinstance(each, _FUSED))
        return frozenset(f"{name}.{own}" for name, each in layers for own, _ in each.named_parameters(recurse=False))

    @cached_property
    def skeleton(self) -> dict[str, Tensor]:
        """Every parameter and buffer by name, on the meta device."""
        return {name: tensor.to("meta") for name, tensor in self._blank.state_dict().items()}

    def everywhere(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return some of the network's tensors under all names that they have in it."""
        weights = self._blank.state_dict(keep_vars=True)
        return {alias: new for name, new in tensors.items() for alias in weights if weights[alias] is weights[name]}

    @cached_property
    def batch_norms(self) -> list[str]:
        """Module names of the BatchNorm layers with running statistics."""
        return list(batch_norms(self._blank))

    @cached_property
    def batch_norm_tensors(self) -> frozenset[str]:
        """Names of all parameters and buffers of BatchNorm layers."""
        return batch_norm_tensors(self._blank)

    @cached_property
    def _empty(self) -> bytes:
        """The pickled network without its weights; unpickling is many times faster than a deep copy."""
        file = io.BytesIO()
        try:
            _Writer(file, self._blank.state_dict(keep_vars=True)).dump(self._blank)
        except (pickle.PicklingError, AttributeError, TypeError, RuntimeError) as error:
            advice = "define its classes and functions at the top of a module"
            if "parametrized modules" in str(error):
                advice = "in place of torch.nn.utils.parametrizations use torch.nn.utils.weight_norm or spectral_norm"
            raise MosaicError(f"it cannot be pickled ({first_line(error)}), by which it is copied: {advice}") from error
        return file.getvalue()

    @cached_property
    def _parameters(self) -> dict[str, bool]:
        """Names of the parameters, and whether each requires a gradient."""
        weights = self._blank.state_dict(keep_vars=True)
        return {name: tensor.requires_grad for name, tensor in weights.items() if isinstance(tensor, nn.Parameter)}

    @cached_property
    def _blank(self) -> Classifier:
        with torch.random.fork_rng(devices=[]):
            return self.factory(self.image_shape, self.num_classes)


class _Writer(pickle.Pickler):
    """Pickles a network with the names of its weights instead of their values."""

    def __init__(self, file: io.BytesIO, weights: dict[str, Tensor]) -> None:
        super().__init__(file)
        self._names = {id(tensor): name for name, tensor in weights.items()}

    def persistent_id(self, found: object) -> str | None:
        return self._names.get(id(found))


class _Reader(pickle.Unpickler):
    """Unpickles such a network with other weights."""

    def __init__(self, file: io.BytesIO, weights: dict[str, Tensor]) -> None:
        super().__init__(file)
        self._weights = weights

    def persistent_load(self, name: str) -> Tensor:
        return self._weights[name]


def _scaled(factory: ClassifierFactory, ratio: float, image_shape: ImageShape, num_classes: int) -> Classifier:
    net = factory(image_shape, num_classes).scaled(ratio)
    if not isinstance(net, Classifier):
        raise TypeError(f"expected a mosaic.nets.Classifier, got {type(net).__name__}")
    whole, head = _terms(factory(image_shape, num_classes)), getattr(net, "head", None)
    for name, terms in _terms(net).items():
        layer = net.get_submodule(name)
        if layer is not head and terms < whole.get(name, 0):  # not what looks at the image itself
            layer.register_forward_hook(partial(_divide, terms / whole[name]))
    return net


def _terms(net: nn.Module) -> dict[str, int]:
    """Return over how many channels each convolution or linear layer sums, by its name."""
    layers = ((name, each) for name, each in net.named_modules() if isinstance(each, nn.Conv2d | nn.Linear))
    return {name: each.weight.shape[1] for name, each in layers}


def _divide(share: float, _module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    return output / share
