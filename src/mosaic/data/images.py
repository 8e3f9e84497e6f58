"""Labelled images in one tensor."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Images:
    """Labelled images of one size.

    Attributes:
        pixels: uint8, shape ``(N, channels, H, W)``, in memory or mapped from a file.
        labels: int64, shape ``(N,)``, values ``0..C-1``.
        groups: other values per image by name, such as its domain or writer, each of shape ``(N,)``.
    """

    pixels: Tensor
    labels: Tensor
    groups: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    def at(self, indices: Tensor) -> "Images":
        """Return a copy of the images with these indices."""
        groups = {key: np.asarray(values)[indices.numpy()] for key, values in self.groups.items()}
        return Images(self.pixels[indices], self.labels[indices], groups)


@dataclass(frozen=True)
class ImageSet:
    """A data set: training images, test images and the names of the classes."""

    train: Images
    test: Images
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes, C."""
        return len(self.class_names)
