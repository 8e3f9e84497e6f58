"""Ask a network about stored images."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mosaic.transfer import send


def to_pixels(images: Tensor) -> Tensor:
    """Turn uint8 images into float pixels in ``[0, 1]``, on the device where they are."""
    return images.float() / 255


@torch.no_grad()
def predict(
    net: nn.Module,
    images: Tensor,
    device: torch.device,
    batch_size: int = 512,
    ask: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return a network's answers to stored images, in eval mode and without augmentation.

    Args:
        net: takes pixels in ``[0, 1]``; it is moved to ``device`` and left in the mode that it was in.
        images: uint8, shape ``(N, channels, H, W)``, N at least 1.
        device: where to compute.
        batch_size: images at a time.
        ask: which method of the network to call, by default the network itself.

    Returns:
        Answers on the CPU, shape ``(N, ...)``.
    """
    ask = ask or net
    training = net.training
    send(net, device).eval()
    answers = [ask(to_pixels(send(batch, device))).cpu() for batch in images.split(batch_size)]
    net.train(training)
    return torch.cat(answers)
