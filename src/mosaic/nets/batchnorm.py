"""Look at what flows into BatchNorm layers."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mosaic.transfer import send


def batch_norms(net: nn.Module) -> dict[str, _BatchNorm]:
    """Find the BatchNorm layers that keep running statistics, by module type; keys are their places in the net."""
    layers = {name: m for name, m in net.named_modules() if isinstance(m, _BatchNorm)}
    return {name: layer for name, layer in layers.items() if layer.running_mean is not None}


def batch_norm_tensors(net: nn.Module) -> frozenset[str]:
    """Name every parameter and buffer of the BatchNorm layers, by module type; layers without statistics count too.

    >>> sorted(batch_norm_tensors(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, track_running_stats=False))))
    ['1.bias', '1.weight']
    """
    layers = ((place, m) for place, m in net.named_modules(remove_duplicate=False) if isinstance(m, _BatchNorm))
    return frozenset(name for place, layer in layers for name in layer.state_dict(prefix=f"{place}."))


@contextmanager
def held_statistics(net: nn.Module) -> Iterator[None]:
    """Let the BatchNorm layers use and keep their running statistics inside the block, whatever mode they are in."""
    modes = {layer: layer.training for layer in batch_norms(net).values()}
    for layer in modes:
        layer.eval()
    try:
        yield
    finally:
        for layer, training in modes.items():
            layer.train(training)


@torch.no_grad()
def recalibrate(net: nn.Module, images: Tensor, chunk: int = 256) -> None:
    """Measure the running statistics of every BatchNorm layer anew; weights stay as they are.

    The statistics become the plain mean over the chunks of what each layer sees, from a clean start; so images must
    come in random order, or what differs between chunks is missing from the variances.

    Args:
        net: changed in place; it works on the device of the images, and its mode and place are left as they were.
        images: pixels in ``[0, 1]``, shape ``(M, channels, H, W)``, at least two.
        chunk: images at a time; a last chunk of a single image is left out, since it has no variance.
    """
    layers = batch_norms(net).values()
    momenta = {layer: layer.momentum for layer in layers}
    training, home = net.training, next(net.parameters()).device
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # PyTorch then keeps the plain mean
    send(net, images.device).train()
    for batch in images.split(chunk):
        if len(batch) > 1:
            net(batch)
    net.train(training).to(home)
    for layer, momentum in momenta.items():
        layer.momentum = momentum


@contextmanager
def batch_norm_inputs(net: nn.Module) -> Iterator[list[tuple[Tensor, Tensor, Tensor]]]:
    """Collect ``(input, running mean, running variance)`` of every BatchNorm layer that runs inside the block.

    The inputs keep their gradient, so a loss on them reaches whoever made the images. What was compiled runs as it is
    written inside the block: a compiled network would go on writing to the list of the first block that it was in.
    """
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def keep(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        seen.append((inputs[0], layer.running_mean, layer.running_var))

    as_written = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    handles = [layer.register_forward_pre_hook(keep) for layer in batch_norms(net).values()]
    try:
        with as_written:
            yield seen
    finally:
        for handle in handles:
            handle.remove()
