"""Look at what flows into BatchNorm layers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norms(net: nn.Module) -> list[nn.Module]:
    """List the BatchNorm layers that keep running statistics, by module type and not by name."""
    return [m for m in net.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


@contextmanager
def batch_norm_inputs(net: nn.Module) -> Iterator[list[tuple[Tensor, Tensor, Tensor]]]:
    """Collect ``(input, running mean, running variance)`` of every BatchNorm layer that runs inside the block.

    The inputs keep their gradient, so a loss on them reaches whoever made the images.
    """
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def keep(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        seen.append((inputs[0], layer.running_mean, layer.running_var))

    handles = [layer.register_forward_pre_hook(keep) for layer in batch_norms(net)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
