"""Choose which classes the logged samples of a generator show."""

from torch import Tensor

SHOWN_IMAGES = 64
"""Samples of every generator."""
_MOST_CLASSES = _MOST_OF_A_CLASS = 8


def shown_labels(class_counts: Tensor, count: int) -> Tensor:
    """Return labels of images to show: equally many of the largest classes, at most eight of at most eight.

    Args:
        class_counts: images of every class, shape ``(C,)``.
        count: images to show, about.

    Returns:
        Sorted labels, shape ``(B,)``.

    >>> import torch
    >>> shown_labels(torch.tensor([3, 0, 9]), 4)
    tensor([0, 0, 2, 2])
    """
    largest = class_counts.cpu().argsort(descending=True, stable=True)[:_MOST_CLASSES]
    held = largest[class_counts.cpu()[largest] > 0].sort().values
    return held.repeat_interleave(min(_MOST_OF_A_CLASS, max(1, count // max(1, len(held)))))
