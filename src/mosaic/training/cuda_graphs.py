"""Capture a network's forward and backward pass as CUDA graphs: a step of hundreds of kernels becomes two launches.

A small step on a GPU takes as long as Python needs to launch its kernels, four fifths of a step of ResNet-18 on 64
images. The graphs are of an architecture, not of a network: every phase copies its weights to where the graphs look for
them, so that phases of ten steps gain as well. Loss, optimiser and augmentation run as ever, and the kernels are those
that run without graphs.

A pass runs as ever wherever it could differ from the captured one: without gradients, with hooks, or with other modes
than in the first step. What cannot be seen is randomness of Python's own, and a hook set in the middle of a phase.
"""

import copy
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mosaic.errors import MosaicError, printable
from mosaic.training.structure import StandIn, attributes_of, structure_of

KEPT = 16
"""Captured passes, each of one architecture and one batch shape; every one keeps the memory of its step."""
WARM_UPS = 3
"""Passes before a capture, in which libraries make their choices; PyTorch's own number."""
DEVICES = ("cuda",)
"""Types of device that have graphs."""

Forward = Callable[..., Tensor]


class GraphCache:
    """The captured passes of a process."""

    def __init__(self) -> None:
        self._passes: dict[Hashable, _CapturedPass] = {}

    @contextmanager
    def serving(self, networks: Iterable[nn.Module]) -> Iterator[None]:
        """Replay the training passes of these networks inside the block, wherever they train on a GPU."""
        replacements = [_Replacement(network, self) for network in networks]
        for replacement in replacements:
            vars(replacement.network)["forward"] = replacement
        try:
            yield
        finally:
            for replacement in replacements:
                replacement.restore()

    def passes_of(self, replacement: "_Replacement", images: Tensor) -> "_CapturedPass | None":
        """Return the captured passes of this architecture and such batches; capture them if there is room."""
        key = replacement.structure, _batch_of(images)
        if key not in self._passes and len(self._passes) < KEPT:
            self._passes[key] = _CapturedPass(replacement, images)
        return self._passes.get(key)


class _Replacement(StandIn):
    """Stands in the place of a network's ``forward`` for one phase."""

    def __init__(self, network: nn.Module, cache: GraphCache) -> None:
        self.network, self._cache = network, cache
        self._replaced = vars(network).get("forward")
        self.forward: Forward = network.forward
        self._by_batch: dict[Hashable, _CapturedPass | None] = {}
        self._last: _CapturedPass | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Give a copy of the network its ordinary passes."""
        return copy.deepcopy(self.forward, memo)

    @cached_property
    def tensors(self) -> list[Tensor]:
        """Weights and buffers, as they are where the network trains."""
        return list(chain(self.network.parameters(), self.network.buffers()))

    @cached_property
    def learning(self) -> list[Tensor]:
        """The weights that are trained."""
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    @cached_property
    def structure(self) -> Hashable | None:
        """What the kernels depend on but weights and images; nothing where that is unknown."""
        return structure_of(self.network)

    @cached_property
    def _first_seen(self) -> tuple[list[bool], list[tuple[dict[str, Any], str, Any]]]:
        return [tensor.requires_grad for tensor in self.tensors], list(attributes_of(self.network))

    def is_as_before(self) -> bool:
        """Whether no tensor, constant or mode has been replaced since the first step."""
        learns, seen = self._first_seen
        same = all(found.get(name) is value for found, name, value in seen)
        return same and [tensor.requires_grad for tensor in self.tensors] == learns

    def __call__(self, images: Tensor, *others: Any, **named: Any) -> Tensor:
        """Map a batch to the network's outputs."""
        passes = None if others or named else self._passes_for(images)
        if passes is None:
            return self.forward(images, *others, **named)
        passes.copy_weights_of(self)
        outputs: Tensor = _Replay.apply(passes, images, *self.learning)
        return outputs

    def _passes_for(self, images: Tensor) -> "_CapturedPass | None":
        """Return the captured passes that do what the network would do now, if there are any."""
        trains = torch.is_grad_enabled() and not images.requires_grad and images.device.type in DEVICES
        if not trains or not self.learning or self.structure is None or not self.is_as_before():
            return None
        if self._last is not None and self._last.waits():  # another pass would overwrite what its gradient needs
            return None
        batch = _batch_of(images)
        if batch not in self._by_batch:
            self._by_batch[batch] = self._cache.passes_of(self, images)
        passes = self._by_batch[batch]
        self._last = passes or self._last
        return passes

    def restore(self) -> None:
        """Give the network back its forward pass, and weights of its own: the next network overwrites the graphs'."""
        del vars(self.network)["forward"]
        if self._replaced is not None:
            vars(self.network)["forward"] = self._replaced
        if self._last is not None:
            self._last.return_weights_of(self)


class _CapturedPass:
    """Forward and backward pass of one architecture on batches of one shape.

    Attributes:
        node: the forward pass that has been replayed last, in autograd, until its backward pass.
    """

    def __init__(self, replacement: _Replacement, images: Tensor) -> None:
        self.node: Callable[[], object] = _nothing
        self._weights = [tensor.data for tensor in replacement.tensors]
        self._images = images.clone()
        name, kind = type(replacement.network).__name__, images.device.type
        enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        # weights are cast in every pass: a cast that autocast keeps would lie outside the graph
        with _unchanged(replacement, images.device), torch.autocast(kind, dtype, enabled, cache_enabled=False):
            outputs = replacement.forward(self._images)  # what is wrong with the network itself is said out here
            self._gradient = torch.zeros_like(outputs)
            del outputs
            try:
                self._capture(replacement)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                raise MosaicError(
                    f"model.cuda_graphs: {name} cannot be captured as a CUDA graph, which asks for the same kernels in "
                    f"every step and no look at a value ({printable(str(error))}): leave model.cuda_graphs out"
                ) from error
            if not replacement.is_as_before() or structure_of(replacement.network) != replacement.structure:
                raise MosaicError(
                    f"model.cuda_graphs: {name} cannot be captured as a CUDA graph, since its forward pass changes "
                    "attributes of the network: leave model.cuda_graphs out"
                )

    def waits(self) -> bool:
        """Whether a forward pass waits for its backward pass."""
        return self.node() is not None

    def copy_weights_of(self, replacement: _Replacement) -> None:
        """Copy a network's weights to where the graphs look for them, and let it hold those from now on."""
        pairs = list(zip(replacement.tensors, self._weights, strict=True))
        if all(tensor.data_ptr() == weight.data_ptr() for tensor, weight in pairs):
            return
        for tensor, weight in pairs:
            weight.copy_(tensor.data)
            tensor.data = weight

    def return_weights_of(self, replacement: _Replacement) -> None:
        """Give a network weights of its own, unless a Trainer has moved them away already."""
        for tensor, weight in zip(replacement.tensors, self._weights, strict=True):
            if tensor.data_ptr() == weight.data_ptr():
                tensor.data = tensor.data.clone()

    def forward(self, images: Tensor) -> Tensor:
        """Replay the forward pass."""
        self._images.copy_(images)
        self._replay_forward()
        return self._outputs.clone()

    def backward(self, gradient: Tensor) -> list[Tensor | None]:
        """Replay the backward pass; return copies of the gradients, which may be kept or added up."""
        self._gradient.copy_(gradient)
        self._replay_backward()
        copies = iter(torch._foreach_mul([found for found in self._gradients if found is not None], 1))
        return [None if found is None else next(copies) for found in self._gradients]

    def _capture(self, replacement: _Replacement) -> None:
        def forward() -> Tensor:
            return replacement.forward(self._images)

        def backward(outputs: Tensor) -> tuple[Tensor | None, ...]:
            return torch.autograd.grad(outputs, replacement.learning, self._gradient, allow_unused=True)

        warm_up(lambda: backward(forward() * 1))  # a backward pass that begins with cuBLAS warns of a missing context
        pool = memory_pool()
        self._replay_forward, outputs = capture(forward, pool)
        self._replay_backward, self._gradients = capture(lambda: backward(outputs), pool)
        self._outputs: Tensor = outputs.detach()


class _Replay(torch.autograd.Function):
    """Puts the replayed passes into autograd."""

    @staticmethod
    def forward(ctx: Any, passes: _CapturedPass, images: Tensor, *_: Tensor) -> Tensor:
        ctx.passes, passes.node = passes, weakref.ref(ctx)
        return passes.forward(images)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        passes: _CapturedPass = ctx.passes
        if passes.node() is not ctx:
            raise MosaicError(
                "model.cuda_graphs: expected one gradient of each forward pass, got a second: leave model.cuda_graphs "
                "out with this loss"
            )
        passes.node = _nothing
        return None, None, *passes.backward(gradient)


def warm_up(run: Callable[[], Any]) -> None:
    """Run what will be captured on the stream of captures, as these demand."""
    stream = _stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            run()
    torch.cuda.current_stream().wait_stream(stream)


def memory_pool() -> Any:
    """Return memory for the two graphs of a pass."""
    return torch.cuda.graph_pool_handle()


def capture(run: Callable[[], Any], pool: Any) -> tuple[Callable[[], None], Any]:
    """Capture what a function launches; return what launches it again, and where the results will lie."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, stream=_stream()):
        results = run()
    return graph.replay, results


@cache
def _stream() -> torch.cuda.Stream:
    """Return one stream for all: libraries keep a workspace for each."""
    return torch.cuda.Stream()


@contextmanager
def _unchanged(replacement: _Replacement, device: torch.device) -> Iterator[None]:
    """Put buffers and random generators back after the block."""
    kept = [buffer.clone() for buffer in replacement.network.buffers()]
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(replacement.network.buffers(), kept, strict=True):
                buffer.copy_(value)


def _nothing() -> None:
    return None


def _batch_of(images: Tensor) -> Hashable:
    """Return all that kernels depend on of a batch, and of the precision at this point."""
    kind = images.device.type
    precision = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    return images.device, images.shape, images.dtype, images.stride(), precision
