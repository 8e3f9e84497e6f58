"""An ensemble whose members speak about the classes that they know."""

from collections.abc import Callable, Iterable

from torch import Tensor, nn


class ClassWeightedEnsemble(nn.Module):
    """Classifiers, frozen and in eval mode, weighed by how much each knows of an image's wanted label.

    A member whose weight is zero for an image does not look at it: with strong label skew most of the work falls away.

    Args:
        members: N classifiers; they may have different architectures.
        weights: of every member and label, shape ``(N, C)``.
    """

    weights: Tensor

    def __init__(self, members: Iterable[nn.Module], weights: Tensor) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.register_buffer("weights", weights)
        self.eval()
        self.requires_grad_(False)

    def heard(self, member: int, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images that a member has a say in, by their labels ``(B,)``, and its weight for each of them."""
        weights = self.weights[member, labels]
        images = weights.nonzero().squeeze(1)
        return images, weights[images]

    def forward(self, images: Tensor, labels: Tensor, answer: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Return the weighted sum of the members' answers.

        Args:
            images: pixels in ``[0, 1]``, shape ``(B, channels, H, W)``.
            labels: the wanted classes, shape ``(B,)``.
            answer: what is summed, as a function of a member's logits ``(., C)``; the logits when not given.

        Returns:
            Shape ``(B, C)``.
        """
        total = self.weights.new_zeros(len(images), self.weights.shape[1])
        for number, member in enumerate(self.members):
            heard, weights = self.heard(number, labels)
            if len(heard):
                logits = member(images[heard])
                answers = answer(logits) if answer else logits
                total = total.index_add(0, heard, (weights[:, None] * answers).to(total.dtype))
        return total
