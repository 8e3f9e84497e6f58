"""Labelled images as one tensor, checked once."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from mosaic.errors import MosaicError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Images:
    """Labelled images of one size.

    Attributes:
        pixels: uint8, shape ``(N, channels, H, W)``; in memory, or mapped from a file.
        labels: int64, shape ``(N,)``, values ``0..C-1``.
        groups: what else the source knows of each image, such as its domain or writer, by name, each of shape ``(N,)``.
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
    labels = check_labels(labels, len(pixels), origin)
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.shape[-1] not in (1, 3):
        raise MosaicError(
            f"{origin}: expected 1 or 3 channels, got images of shape {pixels.shape[1:]}: convert them first"
        )
    tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    return Images(tensor, torch.from_numpy(labels))


def check_labels(labels: np.ndarray, count: int, origin: str) -> np.ndarray:
    """Check that labels are whole numbers, one per image.

    Args:
        labels: integers, shape ``(N,)`` or ``(N, 1)``.
        count: number of images, N.
        origin: file or class that the labels come from, for the error.

    Returns:
        int64, shape ``(N,)``.

    Raises:
        MosaicError: they are not, or there are none.
    """
    if count == 0:
        raise MosaicError(
            f"{origin}: expected at least one image in each split, got none: fetch or make the file again"
        )
    flat = labels.reshape(-1)
    if len(flat) != count or not np.issubdtype(labels.dtype, np.integer):
        raise MosaicError(
            f"{origin}: expected one integer label for each of {count} images, "
            f"got {len(flat)} labels of type {labels.dtype}: store one whole number per image"
        )
    return flat.astype(np.int64)


def check_label_range(labels: np.ndarray, num_classes: int, split: str, origin: str) -> None:
    """Check that there are classes to tell apart, and that every label has one.

    Raises:
        MosaicError: there is one class alone, or a label is negative, or C or more.
    """
    if num_classes < 2:
        raise MosaicError(f"{origin}: expected images of at least 2 classes, got {num_classes}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise MosaicError(
            f"{origin}: expected {split} labels in 0..{num_classes - 1} ({num_classes} classes), "
            f"got {low}..{high}: number the classes from 0 and name each of them"
        )


def check_shapes(train: tuple[int, ...], test: tuple[int, ...], origin: str) -> None:
    """Check that images to train on and to test on have pixels and look alike.

    Raises:
        MosaicError: they do not.
    """
    if 0 in train:
        raise MosaicError(f"{origin}: expected images of at least one pixel, got the shape {train}")
    if train != test:
        raise MosaicError(
            f"{origin}: expected one image shape, got {train} for training and {test} for test: "
            "set data.source.init_args.resize, or resize one of them first"
        )


def make_image_set(train: Images, test: Images, class_names: tuple[str, ...], origin: str) -> ImageSet:
    """Check that two splits belong together.

    Raises:
        MosaicError: image shapes differ, or a label has no class name.
    """
    check_shapes(train.shape, test.shape, origin)
    for split, images in (("training", train), ("test", test)):
        check_label_range(images.labels.numpy(), len(class_names), split, origin)
    warn_of_rare_classes(train.labels, class_names, origin)
    return ImageSet(train, test, class_names)


def warn_of_rare_classes(labels: Tensor, class_names: Sequence[str], origin: str) -> None:
    """Log the classes that have one training image, or none."""
    counts = labels.bincount(minlength=len(class_names))
    for number, text in ((0, "no training image"), (1, "one training image, so none of it can be held out")):
        rare = [name for name, count in zip(class_names, counts.tolist(), strict=True) if count == number]
        if rare:
            shown = ", ".join(rare[:5]) + (", ..." if len(rare) > 5 else "")
            log.warning("%s: %d of %d classes have %s: %s", origin, len(rare), len(class_names), text, shown)


def checked(loaded: object, origin: str) -> ImageSet:
    """Check what a user's source has loaded, and round floating-point pixels in ``[0, 1]`` to 8 bits.

    Args:
        loaded: what ``load`` has returned.
        origin: the source, for log and error.

    Raises:
        MosaicError: it is no :class:`ImageSet`, or its parts are not what they should be.
    """
    if not isinstance(loaded, ImageSet):
        raise MosaicError(
            f"{origin}: expected a mosaic.data.ImageSet from load(), got {type(loaded).__name__}: return "
            "ImageSet(train=Images(pixels, labels), test=Images(pixels, labels), class_names=(...))"
        )
    if isinstance(loaded.class_names, str) or not all(isinstance(name, str) for name in loaded.class_names):
        raise MosaicError(f"{origin}: expected class names as a tuple of text, got {loaded.class_names!r}")
    parts = (_checked(loaded.train, "training", origin), _checked(loaded.test, "test", origin))
    check_shapes(parts[0].shape, parts[1].shape, origin)
    for split, images in zip(("training", "test"), parts, strict=True):
        check_label_range(images.labels.numpy(), loaded.num_classes, split, origin)
    return replace(loaded, train=parts[0], test=parts[1])


def _checked(images: object, split: str, origin: str) -> Images:
    if not isinstance(images, Images):
        raise MosaicError(f"{origin}: expected mosaic.data.Images as {split} images, got {type(images).__name__}")
    pixels, labels = (
        torch.from_numpy(part) if isinstance(part, np.ndarray) and part.dtype.kind in "buif" else part
        for part in (images.pixels, images.labels)
    )
    for name, part, dimensions in (("pixels", pixels, 4), ("labels", labels, 1)):
        if not isinstance(part, Tensor) or part.ndim != dimensions:
            got = f"shape {tuple(part.shape)}" if isinstance(part, Tensor) else type(part).__name__
            raise MosaicError(
                f"{origin}: expected {split} {name} as a tensor of shape "
                f"{'(N, channels, H, W)' if dimensions == 4 else '(N,)'}, got {got}"
            )
    if pixels.shape[1] not in (1, 3):
        raise MosaicError(
            f"{origin}: expected {split} pixels of shape (N, channels, H, W) with 1 or 3 channels, got "
            f"{tuple(pixels.shape)}: put the channels second"
        )
    whole = torch.from_numpy(check_labels(labels.numpy(), len(pixels), f"{origin}, {split} images"))
    groups = _checked_groups(images.groups, len(pixels), split, origin)
    if (images.pixels.dtype, images.labels.dtype) == (torch.uint8, torch.int64):
        return images
    return Images(_eight_bits(pixels, split, origin), whole, groups)


def _eight_bits(pixels: Tensor, split: str, origin: str) -> Tensor:
    if pixels.dtype == torch.uint8:
        return pixels
    whole = not pixels.is_floating_point() and pixels.dtype != torch.bool
    low, high = (float(value) for value in (pixels.long() if whole else pixels.double()).aminmax())
    if pixels.is_floating_point() and 0 <= low <= high <= 1:
        log.info("%s: %s pixels are %s in [0, 1] and are rounded to 8 bits", origin, split, pixels.dtype)
        return (pixels * 255).round().to(torch.uint8)
    if whole and 0 <= low <= high <= 255:
        return pixels.to(torch.uint8)
    raise MosaicError(
        f"{origin}: expected {split} pixels as uint8, or as floating point in [0, 1], got {pixels.dtype} in "
        f"[{low:g}, {high:g}]: leave normalisation to the network (data.mean, data.std), and convert the pixels"
    )


def _checked_groups(groups: object, count: int, split: str, origin: str) -> Mapping[str, np.ndarray]:
    if not isinstance(groups, Mapping):
        raise MosaicError(f"{origin}: expected groups of {split} images by name, got {type(groups).__name__}")
    arrays = {str(key): np.asarray(values) for key, values in groups.items()}
    for key, values in arrays.items():
        if values.shape != (count,):
            raise MosaicError(
                f"{origin}: expected one value of group {key!r} for each of {count} {split} images, got shape "
                f"{values.shape}"
            )
    return arrays


def pixel_statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of pixels in ``[0, 1]``, from histograms and without a copy."""
    histograms = torch.zeros(images.shape[0], 256, dtype=torch.float64)
    for block in images.pixels.split(4096):  # images may lie in a file that is larger than memory
        for histogram, channel in zip(histograms, block.unbind(1), strict=True):
            histogram += torch.bincount(channel.flatten(), minlength=256)
    levels = torch.arange(256, dtype=torch.float64) / 255
    shares = histograms / histograms.sum(1, keepdim=True)
    means = shares @ levels
    variances = (shares * (levels - means[:, None]) ** 2).sum(1)
    return tuple(means.tolist()), tuple(variances.sqrt().clamp(min=1e-6).tolist())
