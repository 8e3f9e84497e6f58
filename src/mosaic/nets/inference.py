"""Run networks on stored images."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mosaic.transfer import send


def to_pixels(images: Tensor) -> Tensor:
    """Turn uint8 images into float pixels in ``[0, 1]`` on the same device."""
    return images.float() / 255


def to_bytes(pixels: Tensor) -> Tensor:
    """Turn pixels in ``[0, 1]`` into uint8 images on the same device, rounded to the nearest of 256 values."""
    return (pixels * 255).round().to(torch.uint8)


@torch.no_grad()
def predict(
    net: nn.Module,
    images: Tensor,
    device: torch.device,
    batch_size: int = 512,
    ask: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return a network's outputs for stored images on the CPU, shape ``(N, ...)``, in eval mode.

    Args:
        net: takes pixels in ``[0, 1]``; it is moved to ``device``, and its mode is restored.
        images: uint8, shape ``(N, channels, H, W)``, N at least 1.
        device: device to compute on.
        batch_size: images per forward pass.
        ask: method of the network to call, by default the network itself.
    """
    ask = ask or net
    training = net.training
    send(net, device).eval()
    answers = [ask(to_pixels(send(batch, device))).cpu() for batch in images.split(batch_size)]
    net.train(training)
    return torch.cat(answers)
