"""Run networks on stored images."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mosaic.transfer import send

_VALUES_IN_CACHES = 64 * 3 * 32 * 32
"""Of a batch of images: the fastest of 32 to 1,024 images of 3x32x32 with ``SmallCNN``, and close to it for 1x28x28."""


def to_pixels(images: Tensor) -> Tensor:
    """Turn uint8 images into float pixels in ``[0, 1]`` on the same device."""
    return images.float() / 255


def to_bytes(pixels: Tensor) -> Tensor:
    """Turn pixels in ``[0, 1]`` into uint8 images on the same device, rounded to the nearest of 256 values.

    Pixels beyond, as a generator of one's own may draw them, become black or white.
    """
    return (pixels * 255).round().clamp(0, 255).to(torch.uint8)


def guesses(logits: Tensor) -> Tensor:
    """Return the most likely class, shape ``(...)``, of logits ``(..., C)``; -1, which is no class, where none is.

    That is where the largest logit is not finite: ``argmax`` would name a class all the same.

    >>> guesses(torch.tensor([[0.0, 2.0], [float("nan"), 0.0], [-float("inf"), -float("inf")]]))
    tensor([ 1, -1, -1])
    """
    largest, classes = logits.max(-1)
    return classes.where(largest.isfinite(), -1)


def images_at_once(images: Tensor, device: torch.device) -> int:
    """Return how many images a forward pass is given: on CPUs as many as keep what layers hand on in the caches.

    There, 64 images of 3x32x32 at a time take a small network a third of the time per image of 512.

    Args:
        images: shape ``(N, channels, H, W)``.
        device: where they are seen.
    """
    return max(8, min(512, _VALUES_IN_CACHES // images.shape[1:].numel())) if device.type == "cpu" else 512


@torch.no_grad()
def predict(
    net: nn.Module, images: Tensor, device: torch.device, ask: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Return a network's outputs for stored images on the CPU, shape ``(N, ...)``, in eval mode.

    Args:
        net: takes pixels in ``[0, 1]``; it is moved to ``device``, and its mode is restored.
        images: uint8, shape ``(N, channels, H, W)``, N at least 1.
        device: device to compute on.
        ask: method of the network to call, by default the network itself.
    """
    ask = ask or net
    training = net.training
    send(net, device).eval()
    batches = images.split(images_at_once(images, device))
    answers = [ask(to_pixels(send(batch, device))).cpu() for batch in batches]
    net.train(training)
    return torch.cat(answers)
