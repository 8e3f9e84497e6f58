"""Capture a network's forward and backward pass as CUDA graphs: a step of hundreds of kernels becomes two launches.

A small step on a GPU takes as long as Python needs to launch its kernels, four fifths of a step of ResNet-18 on 64
images. The graphs are of an architecture, not of a network: every phase copies its weights to where the graphs look for
them, so that phases of ten steps gain as well. Loss, optimiser and augmentation run as ever, and the kernels are those
that run without graphs.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mosaic.errors import MosaicError

KEPT = 16
"""Captured passes, each of one architecture and one batch shape; every one keeps the memory of its step."""
WARM_UPS = 3
"""Passes before a capture, in which libraries make their choices; PyTorch's own number."""
DEVICES = ("cuda",)
"""Types of device that have graphs."""

_OF_EVERY_MODULE = frozenset(vars(nn.Module())) - {"training"} | {"forward"}
_WATCHERS = ("_backward_hooks", "_backward_pre_hooks")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")

Forward = Callable[[Tensor], Tensor]


class GraphCache:
    """The captured passes of a process."""

    def __init__(self) -> None:
        self._passes: OrderedDict[Hashable, _CapturedPass] = OrderedDict()

    @contextmanager
    def serving(self, networks: Iterable[nn.Module]) -> Iterator[None]:
        """Replay the training passes of these networks inside the block, wherever they train on a GPU."""
        guests = [_Guest(network, self) for network in networks]
        for guest in guests:
            vars(guest.network)["forward"] = guest
        try:
            yield
        finally:
            for guest in guests:
                del vars(guest.network)["forward"]
                guest.leave()

    def passes_of(self, guest: "_Guest", images: Tensor) -> "_CapturedPass":
        """Return the captured passes for this architecture and batches like this one; capture them if need be."""
        key = guest.structure, _batch_of(images)
        if key not in self._passes:
            self._passes[key] = _CapturedPass(guest, images)
            if len(self._passes) > KEPT:
                self._passes.popitem(last=False)
        self._passes.move_to_end(key)
        return self._passes[key]


class _Guest:
    """Stands in the place of a network's ``forward`` for one phase."""

    def __init__(self, network: nn.Module, cache: GraphCache) -> None:
        self.network, self._cache = network, cache
        self.forward: Forward = network.forward
        self._home: _CapturedPass | None = None
        self._batch: Hashable = None

    @cached_property
    def tensors(self) -> list[Tensor]:
        """Weights and buffers; first asked for where the network trains."""
        return list(chain(self.network.parameters(), self.network.buffers()))

    @cached_property
    def learning(self) -> list[Tensor]:
        """The weights that are trained."""
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    @cached_property
    def structure(self) -> Hashable | None:
        """What the kernels depend on but weights and images."""
        return _structure(self.network)

    def __call__(self, images: Tensor) -> Tensor:
        """Map a batch to the network's outputs."""
        trains = torch.is_grad_enabled() and not images.requires_grad and images.device.type in DEVICES
        if not trains or not self.learning or self.structure is None:
            return self.forward(images)
        batch = _batch_of(images)
        if self._home is None or self._batch != batch:
            self._home, self._batch = self._cache.passes_of(self, images), batch
        if self._home.is_open:  # a second pass before the first one's gradient would overwrite what that needs
            return self.forward(images)
        self._home.move_in(self)
        outputs: Tensor = _Replay.apply(self._home, images, *self.learning)
        return outputs

    def leave(self) -> None:
        """Keep the weights, for the next guest overwrites those of the graphs."""
        if self._home is not None:
            self._home.move_out(self)
            self._home = None


class _CapturedPass:
    """Forward and backward pass of one architecture on batches of one shape.

    Attributes:
        is_open: whether a forward pass waits for its backward pass.
    """

    def __init__(self, guest: _Guest, images: Tensor) -> None:
        self.is_open = False
        self._weights = [tensor.data for tensor in guest.tensors]
        self._images = images.clone()
        device, kind = images.device, images.device.type
        enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        kept = [buffer.clone() for buffer in guest.network.buffers()]
        on_gpu = [device] if kind == "cuda" else []
        try:
            # weights are cast in every pass: a cast that autocast keeps would lie outside the graph
            with torch.random.fork_rng(on_gpu), torch.autocast(kind, dtype, enabled, cache_enabled=False):
                self._capture(guest)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            said = " ".join(str(error).split())[:300]
            raise MosaicError(
                f"model.cuda_graphs: {type(guest.network).__name__} cannot be captured as a CUDA graph, which asks for "
                f"the same kernels in every step and no look at a value ({said}): leave model.cuda_graphs out"
            ) from error
        with torch.no_grad():
            for buffer, value in zip(guest.network.buffers(), kept, strict=True):
                buffer.copy_(value)

    def move_in(self, guest: _Guest) -> None:
        """Copy a network's weights to where the graphs look for them, and let it hold those from now on."""
        if guest.tensors[0].data_ptr() == self._weights[0].data_ptr():
            return
        for tensor, weight in zip(guest.tensors, self._weights, strict=True):
            weight.copy_(tensor.data)
            tensor.data = weight

    def move_out(self, guest: _Guest) -> None:
        """Give a network weights of its own, unless a Trainer has moved them away already."""
        self.is_open = False
        for tensor, weight in zip(guest.tensors, self._weights, strict=True):
            if tensor.data_ptr() == weight.data_ptr():
                tensor.data = tensor.data.clone()

    def forward(self, images: Tensor) -> Tensor:
        """Replay the forward pass."""
        self.is_open = True
        self._images.copy_(images)
        self._replay_forward()
        return self._outputs.clone()

    def backward(self, gradient: Tensor) -> list[Tensor | None]:
        """Replay the backward pass; return the gradients of what the network learns."""
        self.is_open = False
        self._gradient.copy_(gradient)
        self._replay_backward()
        return [None if found is None else found.detach() for found in self._gradients]

    def _capture(self, guest: _Guest) -> None:
        def forward() -> Tensor:
            return guest.forward(self._images)

        def backward(outputs: Tensor) -> tuple[Tensor | None, ...]:
            return torch.autograd.grad(outputs, guest.learning, self._gradient, allow_unused=True)

        self._gradient = torch.zeros_like(forward())
        warm_up(lambda: backward(forward() * 1))  # a backward pass that begins with cuBLAS warns of a missing context
        pool = memory_pool()
        self._replay_forward, outputs = capture(forward, pool)
        self._replay_backward, self._gradients = capture(lambda: backward(outputs), pool)
        self._outputs: Tensor = outputs.detach()


class _Replay(torch.autograd.Function):
    """Puts the replayed passes into autograd."""

    @staticmethod
    def forward(ctx: Any, passes: _CapturedPass, images: Tensor, *_: Tensor) -> Tensor:
        ctx.passes = passes
        return passes.forward(images)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        return None, None, *ctx.passes.backward(gradient)


def warm_up(run: Callable[[], Any]) -> None:
    """Run what will be captured on a stream of its own, as a capture demands."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            run()
    torch.cuda.current_stream().wait_stream(stream)


def memory_pool() -> Any:
    """Return memory for the graphs of one architecture."""
    return torch.cuda.graph_pool_handle()


def capture(run: Callable[[], Any], pool: Any) -> tuple[Callable[[], None], Any]:
    """Capture what a function launches; return what launches it again, and where the results will lie."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        results = run()
    return graph.replay, results


def _batch_of(images: Tensor) -> Hashable:
    """Return all that kernels depend on of a batch, and of the precision at this point."""
    kind = images.device.type
    precision = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    return images.device, images.shape, images.dtype, images.stride(), precision


def _structure(network: nn.Module) -> Hashable | None:
    """Return all that a network's kernels depend on but weights and images; nothing where hooks look on.

    A hook that is a ``functools.partial`` counts as a part of the network, as those of narrow networks are.
    """
    parts: list[Hashable] = []
    for module in network.modules():
        hooks = [hook for name in _HOOKS for hook in getattr(module, name).values()]
        if any(getattr(module, name) for name in _WATCHERS) or not all(isinstance(hook, partial) for hook in hooks):
            return None
        parts.append(tuple((hook.func, _hashable(hook.args), _hashable(hook.keywords)) for hook in hooks))
        own = {name: value for name, value in vars(module).items() if name not in _OF_EVERY_MODULE}
        parts.append((type(module), tuple((name, _hashable(value)) for name, value in own.items())))
    for tensor in chain(network.parameters(), network.buffers()):
        parts.append((tensor.shape, tensor.dtype, tensor.stride(), tensor.requires_grad))
    return tuple(parts)


def _hashable(value: object) -> Hashable:
    try:
        hash(value)
    except TypeError:
        return repr(value)
    return value
