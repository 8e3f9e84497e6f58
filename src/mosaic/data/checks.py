"""Check images, labels and the names of classes, whoever has loaded them."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mosaic.data.images import Images, ImageSet
from mosaic.errors import MosaicError, abridged
from mosaic.nets.inference import to_bytes

log = logging.getLogger(__name__)


def check_labels(labels: np.ndarray, count: int, origin: str) -> np.ndarray:
    """Return integer labels of shape ``(N,)`` or ``(N, 1)`` as int64 of shape ``(N,)``.

    ``origin`` is the key or file that holds them; here and below, errors begin with it.

    Raises:
        MosaicError: ``count``, the number of images, is 0, or there is not one integer for each image.
    """
    if count == 0:
        raise MosaicError(f"{origin}: expected at least one image in each split, got none: fetch the file again")
    flat = labels.reshape(-1)
    if len(flat) != count or labels.dtype.kind not in "iu":
        raise MosaicError(
            f"{origin}: expected one integer label for each of {count} images, "
            f"got {len(flat)} labels of type {labels.dtype}: store one whole number per image"
        )
    return flat.astype(np.int64)


def check_label_range(labels: np.ndarray, num_classes: int, split: str, origin: str, fewest: int = 2) -> None:
    """Raise :class:`MosaicError` unless there are ``fewest`` classes and all labels lie in ``0..C-1``."""
    if num_classes < fewest:
        raise MosaicError(f"{origin}: expected images of at least {fewest} classes, got {num_classes}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise MosaicError(
            f"{origin}: expected {split} labels in 0..{num_classes - 1} ({num_classes} classes), "
            f"got {low}..{high}: number the classes from 0 and name each of them"
        )


def check_names(names: Sequence[str], origin: str) -> None:
    """Raise :class:`MosaicError` if two classes have one name."""
    name, times = Counter(names).most_common(1)[0] if names else ("", 0)
    if times > 1:
        many = "twice" if times == 2 else f"{times} times"
        raise MosaicError(
            f"{origin}: expected a different name for every class, got {name!r} {many}: rename one of them"
        )


def check_shapes(train: tuple[int, ...], test: tuple[int, ...], origin: str) -> None:
    """Raise :class:`MosaicError` unless training and test images have pixels and the same shape."""
    if 0 in train:
        raise MosaicError(f"{origin}: expected images of at least one pixel, got the shape {train}")
    if train != test:
        raise MosaicError(
            f"{origin}: expected one image shape, got {train} for training and {test} for test: "
            "set data.source.init_args.resize, or resize one of them first"
        )


def _check_splits(train: Images, test: Images, names: Sequence[str], origin: str) -> None:
    check_shapes(train.shape, test.shape, origin)
    for split, images in (("training", train), ("test", test)):
        check_label_range(images.labels.numpy(), len(names), split, origin)
    check_names(names, origin)


def warn_of_rare_classes(labels: Tensor, class_names: Sequence[str], origin: str) -> None:
    """Log the classes that have one training image or none."""
    counts = labels.bincount(minlength=len(class_names))
    for number, text in ((0, "no training image"), (1, "one training image, so none of it can be held out")):
        rare = [name for name, count in zip(class_names, counts.tolist(), strict=True) if count == number]
        if rare:
            log.warning("%s: %d of %d classes have %s: %s", origin, len(rare), len(class_names), text, abridged(rare))


def checked(loaded: object, origin: str) -> ImageSet:
    """Check what a source has loaded, and round floating-point pixels in ``[0, 1]`` to 8 bits.

    Test images that are the training images are logged here, where every source passes once.

    Raises:
        MosaicError: it is not an :class:`ImageSet`, or a part of it has a wrong type, shape or range.
    """
    if not isinstance(loaded, ImageSet):
        raise MosaicError(
            f"{origin}: expected a mosaic.data.ImageSet from load(), got {type(loaded).__name__}: return "
            "ImageSet(train=Images(pixels, labels), test=Images(pixels, labels), class_names=(...))"
        )
    names = names_of(loaded.class_names, f"{origin}: expected class names as a tuple of strings")
    train, test = _checked(loaded.train, "training", origin), _checked(loaded.test, "test", origin)
    _check_splits(train, test, names, origin)
    if torch.equal(train.labels, test.labels) and torch.equal(train.pixels, test.pixels):
        log.warning("%s: the test images are the training images, so accuracies on them tell nothing", origin)
    return replace(loaded, train=train, test=test, class_names=names)


def names_of(given: object, expected: str) -> tuple[str, ...]:
    """Return class names as Python's own text, which tables, pictures and checkpoints can hold.

    Args:
        given: a list of text.
        expected: how errors begin.

    Raises:
        MosaicError: they are no list of text, or one of them is not.
    """
    listed = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [None]
    if not all(isinstance(name, str) for name in listed):
        raise MosaicError(f"{expected}, got {given!r}")
    names = [str(name) for name in listed]
    if broken := [name for name in names if name.encode(errors="replace").decode() != name]:
        raise MosaicError(
            f"{expected} that UTF-8 can write, got {broken[0]!r}: rename it; it may come from an archive in another "
            "encoding"
        )
    return tuple(names)


def _checked(images: object, split: str, origin: str) -> Images:
    if not isinstance(images, Images):
        raise MosaicError(f"{origin}: expected mosaic.data.Images as {split} images, got {type(images).__name__}")
    pixels, labels = (
        as_tensor(part) if isinstance(part, np.ndarray) and part.dtype.kind in "buif" else part
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
    if labels.layout is not torch.strided or labels.is_floating_point():  # numpy does not know all of these
        got = f"{labels.dtype} as {str(labels.layout).removeprefix('torch.')} tensor"
        raise MosaicError(
            f"{origin}: expected {split} labels with one integer label for each image, got {got}: store whole numbers"
        )
    whole = torch.from_numpy(check_labels(labels.numpy(), len(pixels), f"{origin}, {split} images"))
    if not isinstance(images.groups, Mapping):
        raise MosaicError(f"{origin}: expected groups of {split} images by name, got {type(images.groups).__name__}")
    groups = {str(key): np.asarray(values) for key, values in images.groups.items()}
    for key, values in groups.items():
        if values.shape != whole.shape:
            raise MosaicError(
                f"{origin}: expected one {key!r} for each of {len(whole)} {split} images, got shape {values.shape}"
            )
    if (images.pixels.dtype, images.labels.dtype) == (torch.uint8, torch.int64):
        converted = any(groups[str(key)] is not values for key, values in images.groups.items())
        return replace(images, groups=groups) if converted else images
    return Images(eight_bits(pixels, split, origin), whole, groups)


def as_tensor(array: np.ndarray) -> Tensor:
    """Return an array of numbers as a tensor, whatever its strides and its byte order."""
    known = np.float64 if array.dtype == np.longdouble else array.dtype.newbyteorder("=")
    return torch.from_numpy(np.ascontiguousarray(array, known))


def eight_bits(pixels: Tensor, split: str, origin: str) -> Tensor:
    """Return pixels as uint8; floating point must be in ``[0, 1]``, whole numbers in ``0..255`` and not all 0 and 1.

    ``split`` and ``origin`` say which pixels these are, for errors.

    Raises:
        MosaicError: they are neither.
    """
    if pixels.dtype != torch.uint8:
        check_pixel_range(pixels.dtype, *pixel_range(pixels, split, origin), split, origin)
    return as_bytes(pixels)


def pixel_range(pixels: Tensor, split: str, origin: str) -> tuple[float, float]:
    """Return the smallest and the largest pixel; raise :class:`MosaicError` if they are complex, sparse or float8."""
    coarse = pixels.is_floating_point() and pixels.element_size() == 1  # most operations know no such type
    if pixels.is_complex() or pixels.layout is not torch.strided or coarse:
        got = f"{pixels.dtype} as {str(pixels.layout).removeprefix('torch.')} tensor"
        raise MosaicError(
            f"{origin}: expected {split} pixels as uint8, or as floating point in [0, 1], got {got}: convert them first"
        )
    low, high = (pixels if pixels.is_floating_point() else pixels.long()).aminmax()
    return float(low), float(high)


def check_pixel_range(dtype: torch.dtype, low: float, high: float, split: str, origin: str) -> None:
    """Raise :class:`MosaicError` unless pixels of a type other than uint8 and of this range can be :func:`as_bytes`."""
    if dtype.is_floating_point and 0 <= low <= high <= 1:
        log.info("%s: %s pixels are %s in [0, 1] and are rounded to 8 bits", origin, split, dtype)
    elif dtype.is_floating_point or not 0 <= low <= high <= 255:
        raise MosaicError(
            f"{origin}: expected {split} pixels as uint8, or as floating point in [0, 1], got {dtype} in "
            f"[{low:g}, {high:g}]: {_way_to_eight_bits(dtype, low)}"
        )
    elif high == 1 or dtype == torch.bool:
        raise MosaicError(
            f"{origin}: expected {split} pixels as uint8, or as floating point in [0, 1], got {dtype} of 0 "
            "and 1 alone, which would be nearly black: convert them to floating point, or multiply them by 255"
        )


def as_bytes(pixels: Tensor) -> Tensor:
    """Return pixels in ``[0, 1]``, or whole numbers in ``0..255``, as uint8."""
    return to_bytes(pixels) if pixels.is_floating_point() else pixels.to(torch.uint8)


def _way_to_eight_bits(dtype: torch.dtype, low: float) -> str:
    if dtype == torch.int16 and low < 0:
        return "torchvision's ToTensor wraps values of 16 bits: leave it out, and give pictures or uint16"
    if not dtype.is_floating_point and low >= 0:
        return "round 16 bits to 8 by value / 257, and convert the pixels to uint8"
    return "leave normalisation to the network (data.mean, data.std), and convert the pixels"
