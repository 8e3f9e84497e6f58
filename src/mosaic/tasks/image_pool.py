"""A pool of generated images from which batches are drawn."""

import torch
from torch import Tensor

from mosaic.nets.classifier import ImageShape
from mosaic.nets.inference import to_bytes, to_pixels
from mosaic.transfer import send


class ImagePool:
    """A pool that is filled batch by batch; its pixels have 8 bits, for a quarter of float32's memory.

    Args:
        capacity: the largest number of images.
        image_shape: channels, height, width.
        num_classes: C.
        device: of the images.
    """

    def __init__(self, capacity: int, image_shape: ImageShape, num_classes: int, device: torch.device) -> None:
        self._images = torch.empty(capacity, *image_shape, dtype=torch.uint8, device=device)
        self._logits = torch.empty(capacity, num_classes, device=device)
        self._filled = 0

    def __len__(self) -> int:
        return self._filled

    def append(self, images: Tensor) -> Tensor:
        """Add images with pixels in ``[0, 1]``, shape ``(B, channels, H, W)``; return them after rounding."""
        rounded = to_bytes(images)
        self._images[self._filled : self._filled + len(images)] = rounded
        self._filled += len(images)
        return to_pixels(rounded)

    def annotate(self, logits: Tensor) -> None:
        """Set the teacher's logits ``(B, C)`` of the images that were added last."""
        self._logits[self._filled - len(logits) : self._filled] = logits

    def draw(self, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw images with replacement.

        Args:
            count: number of images.
            random: CPU generator.

        Returns:
            Pixels ``(count, channels, H, W)`` and logits ``(count, C)``, which are undefined where none were set.
        """
        chosen = send(torch.randint(self._filled, (count,), generator=random), self._images.device)
        return to_pixels(self._images[chosen]), self._logits[chosen]

    def samples(self, most: int) -> Tensor:
        """Return at most so many images, evenly spaced from the first to the last."""
        chosen = torch.linspace(0, self._filled - 1, min(most, self._filled)).round().long()
        return to_pixels(self._images[send(chosen, self._images.device)])
