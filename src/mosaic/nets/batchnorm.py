"""Find, read and recalibrate the BatchNorm layers of a network."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mosaic.transfer import send


def batch_norms(net: nn.Module) -> dict[str, _BatchNorm]:
    """Return the BatchNorm layers with running statistics by module name."""
    layers = {name: m for name, m in net.named_modules() if isinstance(m, _BatchNorm)}
    return {name: layer for name, layer in layers.items() if layer.running_mean is not None}


def batch_norm_tensors(net: nn.Module) -> frozenset[str]:
    """Return the names of all parameters and buffers of BatchNorm layers, including layers without statistics.

    >>> sorted(batch_norm_tensors(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, track_running_stats=False))))
    ['1.bias', '1.weight']
    """
    layers = ((place, m) for place, m in net.named_modules(remove_duplicate=False) if isinstance(m, _BatchNorm))
    return frozenset(name for place, layer in layers for name in layer.state_dict(prefix=f"{place}."))


def freeze_statistics(net: nn.Module) -> None:
    """Make the BatchNorm layers use and keep their running statistics until the network is put into training mode."""
    for layer in batch_norms(net).values():
        layer.eval()


@contextmanager
def held_statistics(net: nn.Module) -> Iterator[None]:
    """Make the BatchNorm layers use and keep their running statistics inside the block, in any mode."""
    modes = {layer: layer.training for layer in batch_norms(net).values()}
    freeze_statistics(net)
    try:
        yield
    finally:
        for layer, training in modes.items():
            layer.train(training)


@torch.no_grad()
def recalibrate(net: nn.Module, images: Tensor, chunk: int = 256) -> None:
    """Reset the running statistics of every BatchNorm layer, and measure them on these images.

    The statistics become the mean over the chunks; all other layers work as in eval mode. The images must be in random
    order, because the variances do not include differences between chunks.

    Args:
        net: changed in place; it runs on the device of the images, and then returns to its own device and mode.
        images: pixels in ``[0, 1]``, shape ``(M, channels, H, W)``, at least two.
        chunk: batch size; a last chunk of one image is left out, since it has no variance.
    """
    layers = batch_norms(net).values()
    momenta = {layer: layer.momentum for layer in layers}
    training, home = net.training, next(net.parameters()).device
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # PyTorch then keeps the mean of all batches
    send(net, images.device).eval()  # all else is as the statistics will find it: dropout would also draw at random
    for layer in layers:
        layer.train()
    for batch in images.split(chunk):
        if len(batch) > 1:
            net(batch)
    net.train(training).to(home)
    for layer, momentum in momenta.items():
        layer.momentum = momentum


@contextmanager
def batch_norm_inputs(net: nn.Module) -> Iterator[list[tuple[Tensor, Tensor, Tensor]]]:
    """Collect ``(input, running mean, running variance)`` of every BatchNorm layer that runs inside the block.

    The inputs keep their gradient. Compiled networks run eagerly inside the block: a compiled one would go on writing
    to the list of its first block.
    """
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def keep(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        seen.append((inputs[0], layer.running_mean, layer.running_var))

    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    handles = [layer.register_forward_pre_hook(keep) for layer in batch_norms(net).values()]
    try:
        with eager:
            yield seen
    finally:
        for handle in handles:
            handle.remove()
