"""An ensemble with class-dependent weights."""

from collections.abc import Callable, Iterable

from torch import Tensor, nn


class ClassWeightedEnsemble(nn.Module):
    """Classifiers, frozen and in eval mode, weighted by the target label of an image.

    A member skips images for which its weight is zero: under strong label skew this saves most of the work.

    Args:
        members: N classifiers; they may have different architectures.
        weights: weight of each member for each label, shape ``(N, C)``.
    """

    weights: Tensor

    def __init__(self, members: Iterable[nn.Module], weights: Tensor) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.register_buffer("weights", weights)
        self.eval()
        self.requires_grad_(False)

    def heard(self, member: int, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the indices of the images for which a member has a weight, given labels ``(B,)``, and the weights."""
        weights = self.weights[member, labels]
        images = weights.nonzero().squeeze(1)
        return images, weights[images]

    def forward(self, images: Tensor, labels: Tensor, answer: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Return the weighted sum of the members' answers, shape ``(B, C)``.

        Args:
            images: pixels in ``[0, 1]``, shape ``(B, channels, H, W)``.
            labels: target classes, shape ``(B,)``.
            answer: turns a member's logits ``(., C)`` into its answer; by default the logits are the answer.
        """
        total = self.weights.new_zeros(len(images), self.weights.shape[1])
        for number, member in enumerate(self.members):
            heard, weights = self.heard(number, labels)
            if len(heard):
                logits = member(images[heard])
                answers = answer(logits) if answer else logits
                total = total.index_add(0, heard, (weights[:, None] * answers).to(total.dtype))
        return total
