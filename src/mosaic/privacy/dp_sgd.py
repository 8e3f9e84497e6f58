"""Two parts of DP-SGD (Abadi et al. 2016, arXiv 1607.00133): batches that images enter by chance, and clipping.

The noise is added in :class:`~mosaic.tasks.private_classification.PrivateClassificationTask`.
Which images a batch has must be as secret as the noise, or sampling would buy nothing.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from mosaic.privacy.noise import SecretNoise
from mosaic.privacy.release import on_grid
from mosaic.transfer import send

AT_ONCE = 2**28
"""Numbers that the gradients of single images may have at a time: 1 GiB."""


class PoissonBatches:
    """Batches that each image enters by itself with one probability; a batch may be empty.

    Args:
        pixels: of all images.
        labels: of all images.
        indices: the images to use, shape ``(n,)``.
        rate: the probability.
        steps: number of batches.
        noise: decides who enters.
    """

    def __init__(
        self, pixels: Tensor, labels: Tensor, indices: Tensor, rate: float, steps: int, noise: SecretNoise
    ) -> None:
        self._pixels, self._labels, self._indices = pixels, labels, indices
        self._rate, self._steps, self._noise = rate, steps, noise

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(self._steps):
            entered = self._noise.uniform(f"batch {step}", len(self._indices)) < self._rate
            mine = send(self._indices[entered], self._pixels.device)
            yield self._pixels[mine], self._labels[mine]


def gradients_by_image(net: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return the gradient of every image's cross-entropy, by parameter, each of shape ``(B, *parameter)``.

    Args:
        net: no image's output may depend on another image, as with BatchNorm.
        images: pixels in ``[0, 1]``, shape ``(B, channels, H, W)``.
        labels: shape ``(B,)``.
    """
    learnt = {name: each.detach() for name, each in net.named_parameters() if each.requires_grad}
    fixed = {
        name: each.detach() for name, each in (*net.named_parameters(), *net.named_buffers()) if name not in learnt
    }

    def loss(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return cross_entropy(functional_call(net, {**weights, **fixed}, (image[None],)), label[None])

    found: dict[str, Tensor] = vmap(grad(loss), in_dims=(None, 0, 0), randomness="different")(learnt, images, labels)
    return found


def gradient_sums(net: nn.Module, images: Tensor, labels: Tensor, clipping: float) -> dict[str, Tensor]:
    """Return :func:`clipped_sums` of a batch, a few images at a time, so that not all their gradients are in memory.

    Args:
        net: see :func:`gradients_by_image`.
        images: pixels in ``[0, 1]``, shape ``(B, channels, H, W)``, B at least 1.
        labels: shape ``(B,)``.
        clipping: the norm that becomes 1.

    Returns:
        Whole numbers, so that it does not matter where the batch is divided.
    """
    learnt = sum(each.numel() for each in net.parameters() if each.requires_grad)
    at_once = max(1, AT_ONCE // max(1, learnt))
    total: dict[str, Tensor] = {}
    for pixels, classes in zip(images.split(at_once), labels.split(at_once), strict=True):
        for name, part in clipped_sums(gradients_by_image(net, pixels, classes), clipping).items():
            total[name] = total[name] + part if name in total else part
    return total


def clipped_sums(gradients: dict[str, Tensor], clipping: float) -> dict[str, Tensor]:
    """Return sums of gradients over images, each clipped to norm 1 of ``clipping`` over all parameters together.

    They are whole numbers, float64, multiples of one over :data:`~mosaic.privacy.release.GRID`. One image changes all
    of them together by a vector of norm ``GRID`` at most; one whose gradient is not finite counts nothing.

    Args:
        gradients: see :func:`gradients_by_image`.
        clipping: the norm that becomes 1.
    """
    square = torch.stack([each.double().flatten(1).square().sum(1) for each in gradients.values()]).sum(0)
    norm = square.sqrt()
    factor = torch.where(norm.isfinite(), 1 / norm.clamp(min=clipping), 0.0)

    def summed(each: Tensor) -> Tensor:
        scaled = each.double() * factor.view(-1, *(1,) * (each.dim() - 1))
        return on_grid(scaled).sum(0)

    return {name: summed(each) for name, each in gradients.items()}
