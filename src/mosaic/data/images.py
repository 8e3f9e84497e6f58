"""Labelled images in memory, checked once."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mosaic.errors import MosaicError


@dataclass(frozen=True)
class Images:
    """Labelled images of one size.

    Attributes:
        pixels: uint8, shape ``(N, channels, H, W)``.
        labels: int64, shape ``(N,)``, values ``0..C-1``.
    """

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width


@dataclass(frozen=True)
class ImageSet:
    """A data set: images to train on, images to test on, and what the classes are called."""

    train: Images
    test: Images
    class_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes, C."""
        return len(self.class_names)


def images_from_arrays(pixels: np.ndarray, labels: np.ndarray, origin: str) -> Images:
    """Check arrays and turn them into :class:`Images`.

    Args:
        pixels: uint8, shape ``(N, H, W)`` or ``(N, H, W, channels)`` with 1 or 3 channels.
        labels: integers, shape ``(N,)`` or ``(N, 1)``.
        origin: file or class that the arrays come from, for the error.

    Raises:
        MosaicError: types, shapes or lengths do not fit.
    """
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4):
        raise MosaicError(
            f"{origin}: expected uint8 images of shape (N, H, W) or (N, H, W, channels), "
            f"got {pixels.dtype} of shape {pixels.shape}: convert them first"
        )
    labels = labels.reshape(-1)
    if len(labels) != len(pixels) or not np.issubdtype(labels.dtype, np.integer):
        raise MosaicError(
            f"{origin}: expected one integer label for each of {len(pixels)} images, "
            f"got {len(labels)} labels of type {labels.dtype}: store one whole number per image"
        )
    if len(labels) == 0:
        raise MosaicError(
            f"{origin}: expected at least one image in each split, got none: fetch or make the file again"
        )
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.shape[-1] not in (1, 3):
        raise MosaicError(
            f"{origin}: expected 1 or 3 channels, got images of shape {pixels.shape[1:]}: convert them first"
        )
    tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    return Images(tensor, torch.from_numpy(labels.astype(np.int64)))


def make_image_set(train: Images, test: Images, class_names: tuple[str, ...], origin: str) -> ImageSet:
    """Check that two splits belong together.

    Raises:
        MosaicError: image shapes differ, or a label has no class name.
    """
    if train.shape != test.shape:
        raise MosaicError(
            f"{origin}: expected one image shape, got {train.shape} for training and {test.shape} for test: "
            "resize one of them first"
        )
    for split, images in (("training", train), ("test", test)):
        low, high = int(images.labels.min()), int(images.labels.max())
        if low < 0 or high >= len(class_names):
            raise MosaicError(
                f"{origin}: expected {split} labels in 0..{len(class_names) - 1} ({len(class_names)} classes), "
                f"got {low}..{high}: number the classes from 0 and name each of them"
            )
    return ImageSet(train, test, class_names)


def pixel_statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of pixels in ``[0, 1]``, from histograms and without a copy."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in range(images.shape[0]):
        histogram = torch.bincount(images.pixels[:, channel].flatten(), minlength=256).double()
        share = histogram / histogram.sum()
        mean = (share * levels).sum()
        means.append(float(mean))
        deviations.append(float((share * (levels - mean) ** 2).sum().sqrt().clamp(min=1e-6)))
    return tuple(means), tuple(deviations)
