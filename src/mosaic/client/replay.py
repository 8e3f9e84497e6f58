"""Generative replay: clients also train on images that the server has drawn from the generators of all."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mosaic.errors import require_below_one, require_count

PIXELS, LABELS = "pixels", "labels"
"""Names of the tensors in a request: 8-bit pixels ``(M, channels, H, W)`` and their classes ``(M,)``."""


@dataclass(frozen=True)
class ReplaySettings:
    """How much of local training are generated images (Shin et al. 2017, arXiv 1705.08690, here among clients).

    They show a client the classes that it lacks, in every round but the first and those that distil. All classes are
    among them, its own too: else it would learn that what looks generated is none of its own, and a teacher of such
    experts is wrong about generated images.

    A round with replay takes as many steps as one without, since algorithms are compared at equal steps: a client sees
    fewer of its own images in it, with ``local_epochs`` too.

    Attributes:
        share: of every batch, in ``[0, 1)``, that is generated; 0 sends nothing to anybody.
        images: sent to every client for one round; they are shown again where a round needs more.
    """

    share: float = 0.0
    images: int = 300

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        require_below_one("algorithm.replay", share=self.share)
        require_count("algorithm.replay", images=self.images)

    def of_batch(self, size: int) -> int:
        """Return how many of so many images of a batch are replayed, all but two at most.

        >>> ReplaySettings(share=0.25).of_batch(64), ReplaySettings(share=0.9).of_batch(5)
        (16, 3)
        """
        return max(0, min(round(self.share * size), size - 2))


def seen_counts(class_counts: Tensor, replayed: Tensor, share: float) -> Tensor:
    """Return the images per class as batches have them, in numbers of the client's own images, shape ``(C,)``.

    Args:
        class_counts: the client's own images per class, shape ``(C,)``.
        replayed: classes of the replayed images, shape ``(M,)``.
        share: of a batch that is replayed.

    >>> seen_counts(torch.tensor([8, 0]), torch.tensor([0, 1, 1, 1]), share=0.25)
    tensor([6.5000, 1.5000], dtype=torch.float64)
    """
    drawn = torch.bincount(replayed, minlength=len(class_counts)).double()
    return (1 - share) * class_counts + share * class_counts.sum() * drawn / drawn.sum()
