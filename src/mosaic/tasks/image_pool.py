"""Generated images that are kept and drawn from, as many as there are so far."""

import torch
from torch import Tensor

from mosaic.nets.classifier import ImageShape
from mosaic.nets.inference import to_pixels
from mosaic.transfer import send


class ImagePool:
    """Room for images, filled batch by batch.

    Pixels are rounded to 8 bits, as in any image file: a quarter of the memory of float32.

    Args:
        capacity: images that there is room for.
        image_shape: channels, height, width.
        num_classes: C.
        device: where images lie.
    """

    def __init__(self, capacity: int, image_shape: ImageShape, num_classes: int, device: torch.device) -> None:
        self._images = torch.empty(capacity, *image_shape, dtype=torch.uint8, device=device)
        self._logits = torch.empty(capacity, num_classes, device=device)
        self._filled = 0

    def __len__(self) -> int:
        return self._filled

    def append(self, images: Tensor) -> Tensor:
        """Take in images with pixels in ``[0, 1]``, shape ``(B, channels, H, W)``; return them as they are kept."""
        rounded = (images * 255).round().to(torch.uint8)
        self._images[self._filled : self._filled + len(images)] = rounded
        self._filled += len(images)
        return to_pixels(rounded)

    def annotate(self, logits: Tensor) -> None:
        """Keep what the teacher says of the images that came last, shape ``(B, C)``."""
        self._logits[self._filled - len(logits) : self._filled] = logits

    def draw(self, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw images with replacement.

        Args:
            count: how many.
            random: CPU generator.

        Returns:
            Pixels ``(count, channels, H, W)`` and logits ``(count, C)``, which mean nothing for images without them.
        """
        chosen = send(torch.randint(self._filled, (count,), generator=random), self._images.device)
        return to_pixels(self._images[chosen]), self._logits[chosen]

    def samples(self, most: int) -> Tensor:
        """Return up to so many images, spread evenly from the first to the last."""
        chosen = torch.linspace(0, self._filled - 1, min(most, self._filled)).round().long()
        return to_pixels(self._images[send(chosen, self._images.device)])
