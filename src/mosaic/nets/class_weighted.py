"""An ensemble with class-dependent weights."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from mosaic.transfer import send


class ClassWeightedEnsemble(nn.Module):
    """Classifiers, frozen and in eval mode, weighted by the target label of an image.

    A member skips images for which its weight is zero: under strong label skew this saves most of the work. Weights and
    labels lie on the CPU, which says at once which images these are; a GPU would have to finish its work first.

    Args:
        members: N classifiers; they may have different architectures.
        weights: weight of each member for each label, shape ``(N, C)``.
    """

    def __init__(self, members: Iterable[nn.Module], weights: Tensor) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.weights = weights.cpu()
        self.eval()
        self.requires_grad_(False)

    def heard(self, member: int, labels: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the images for which a member has a weight, and the weights, on a device; labels are on the CPU."""
        weights = self.weights[member, labels]
        images = weights.nonzero().squeeze(1)
        return send(images, device), send(weights[images], device)

    def forward(self, images: Tensor, labels: Tensor, answer: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Return the weighted sum of the members' answers, shape ``(B, C)``.

        Args:
            images: pixels in ``[0, 1]``, shape ``(B, channels, H, W)``.
            labels: target classes, shape ``(B,)``, on the CPU.
            answer: turns a member's logits ``(., C)`` into its answer; by default the logits are the answer.
        """
        total = torch.zeros(len(images), self.weights.shape[1], device=images.device)
        for number, member in enumerate(self.members):
            heard, weights = self.heard(number, labels, images.device)
            if len(heard):
                logits = member(images[heard])
                answers = answer(logits) if answer else logits
                total = total.index_add(0, heard, (weights[:, None] * answers).to(total.dtype))
        return total
