"""Augment whole batches where they are: every image gets its own crop and flip, no image its own call."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mosaic.errors import MosaicError
from mosaic.transfer import send


class Augmentation:
    """Random crop with padding, and random horizontal flip.

    Args:
        padding: pixels of zeros around the image before a crop of its own size; 0 leaves images in place.
        flip: whether half of the images are mirrored.
    """

    def __init__(self, padding: int = 0, flip: bool = False) -> None:
        if padding < 0:
            raise MosaicError(f"augmentation padding: expected at least 0 pixels, got {padding}")
        self.padding, self.flip = padding, flip

    def __call__(self, images: Tensor, random: torch.Generator) -> Tensor:
        """Return changed copies.

        Args:
            images: any dtype, shape ``(B, channels, H, W)``.
            random: CPU generator; the draws are few numbers per image and do not depend on the device.

        Returns:
            Images of the same shape, dtype and device.
        """
        if self.padding == 0 and not self.flip:
            return images
        batch, channels, height, width = images.shape
        drawn = torch.randint(0, 2 * self.padding + 1, (2, batch, 1), generator=random)
        if self.flip:
            drawn = torch.cat([drawn, (torch.rand(1, batch, 1, generator=random) < 0.5).long()])
        top, left, *mirrored = send(drawn, images.device)  # a few numbers per image; places are worked out there
        rows = top + torch.arange(height, device=images.device)
        columns = left + torch.arange(width, device=images.device)
        if mirrored:
            columns = torch.where(mirrored[0].bool(), columns.flip(1), columns)
        padded = F.pad(images, [self.padding] * 4)
        places = (rows[:, :, None] * padded.shape[3] + columns[:, None, :]).view(batch, 1, -1)
        taken = padded.flatten(2).gather(2, places.expand(-1, channels, -1))  # 4 x faster than indexing rows, columns
        return taken.view(images.shape)
