"""Images from datasets that the user's own code has made."""

import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence, Sized
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mosaic.data.checks import as_bytes, as_tensor, check_pixel_range, names_of, pixel_range
from mosaic.data.images import Images, ImageSet
from mosaic.data.sources.base import Source
from mosaic.data.sources.classes import MOST_CLASSES, Names, agreed, numbered
from mosaic.data.sources.dataset_classes import NAMES, check_nameless, classes_of
from mosaic.data.sources.rules import SCALED, check_scaled, plain, scale_to_eight_bits
from mosaic.errors import MosaicError, abridged, first_line

log = logging.getLogger(__name__)
OWNER = "client"
"""Name of the groups that say which dataset an image is of."""


class DatasetsSource(Source):
    """Takes images out of map-style datasets; items are as in :func:`~mosaic.data.own.from_datasets`.

    A label is a whole number, or the name of a class where classes have names. Labels of datasets with ``classes`` are
    matched by name, whatever their order; those without, or with a ``target_transform``, are places among all names. A
    ``Subset`` or ``ConcatDataset`` has the classes of what it is made of.

    Args:
        train: datasets to train on; the images of the i-th are of group i by ``client``.
        test: dataset to test on.
        class_names: names of the classes; those of the datasets' ``classes``, or else numbers, when not given.
    """

    def __init__(self, train: Sequence[Any], test: Any, class_names: Sequence[str] | None = None) -> None:
        for name, dataset in _named(train, test):
            if not (isinstance(dataset, Sized) and hasattr(dataset, "__getitem__")):
                raise MosaicError(
                    f"{name}: expected a dataset with a length and items by number, as torch.utils.data.Dataset, got "
                    f"{type(dataset).__name__}"
                )
            if len(dataset) == 0:
                raise MosaicError(f"{name}: expected at least one image, got none")
        self._train, self._test, self._names = list(train), test, class_names

    @property
    def origin(self) -> str:
        """The argument of :func:`~mosaic.data.own.from_datasets`, for errors."""
        return "datasets"

    def load(self) -> ImageSet:
        """Read all items."""
        named = list(_named(self._train, self._test))
        given = None if self._names is None else names_of(self._names, f"class_names: {NAMES}")
        own = [classes_of(name, dataset, given is not None) for name, dataset in named]
        parts = [_read(name, dataset, names or given) for (name, dataset), names in zip(named, own, strict=True)]
        shape = parts[0].shape
        for (name, _), part in zip(named, parts, strict=True):
            if part.shape != shape:
                raise MosaicError(f"{name}: expected images of shape {shape} as in datasets[0], got {part.shape}")
        labels, names = _matched([part.labels.numpy() for part in parts], named, own, given)
        train, owners = parts[:-1], np.repeat(np.arange(len(parts) - 1), [len(part) for part in parts[:-1]])
        known = torch.from_numpy(np.concatenate(labels[:-1]))
        whole = Images(torch.cat([part.pixels for part in train]), known, {OWNER: owners})
        return ImageSet(whole, Images(parts[-1].pixels, torch.from_numpy(labels[-1])), names)


def _matched(
    stored: list[np.ndarray], named: Sequence[tuple[str, Any]], own: Sequence[Names], given: Names
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Make all datasets agree on what a label means: by the names of their classes, where they have any.

    Args:
        stored: labels of the training datasets and of the test dataset.
        named: the datasets and what errors call them.
        own: names of the classes of each dataset.
        given: names of all classes.

    Returns:
        New labels, and the names of the classes.
    """
    if given is None:
        check_nameless(named, own)
    union = tuple(dict.fromkeys(name for names in own[:-1] for name in names or ()))
    if not union and given is None:
        return _by_number(stored)
    reference = given if given is not None and set(union) <= set(given) else union
    parts = zip(stored, own, named, strict=True)
    matched = [agreed(labels, names, reference, origin) for labels, names, (origin, _) in parts]
    return matched, given if given is not None else reference


def _by_number(stored: list[np.ndarray]) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Name classes by their numbers, where all datasets together hold ``0..C-1``; number others anew."""
    values = np.unique(np.concatenate(stored))
    if values[-1] == len(values) - 1 < MOST_CLASSES:
        return stored, tuple(map(str, values.tolist()))
    ends = np.cumsum([len(labels) for labels in stored])
    train, test, names = numbered(np.concatenate(stored[:-1]), stored[-1], "datasets")
    return [*np.split(train, ends[:-2]), test], names


def _named(train: Sequence[Any], test: Any) -> Iterator[tuple[str, Any]]:
    yield from ((f"datasets[{number}]", dataset) for number, dataset in enumerate(train))
    yield "test", test


def _read(name: str, dataset: Any, names: Names) -> Images:
    """Read the items of a dataset whose classes have these names; only their 8 bits are held."""
    labels, notes, largest = np.empty(len(dataset), np.int64), Counter[str](), 0
    whole, dtype, ranges = torch.empty(0, dtype=torch.uint8), torch.uint8, np.empty((len(dataset), 2))
    for number in range(len(dataset)):
        where, scaled = f"{name}[{number}]", notes[SCALED]
        image, label = _item(where, dataset, number)
        pixels = _pixels(where, image, notes)
        labels[number] = _label(where, label, names)
        if number == 0:
            whole, dtype = torch.empty((len(dataset), *pixels.shape), dtype=torch.uint8), pixels.dtype
        if pixels.shape != whole.shape[1:] or pixels.dtype != dtype:
            got = f"{pixels.dtype} of shape {tuple(pixels.shape)}"
            raise MosaicError(
                f"{where}: expected {dtype} of shape {tuple(whole.shape[1:])} as in {name}[0], got {got}: "
                "resize and convert the images first"
            )
        if notes[SCALED] > scaled:
            largest = max(largest, int(pixels.max()))
        ranges[number] = pixel_range(pixels, "all", where) if dtype != torch.uint8 else 0
        whole[number] = as_bytes(pixels)
    for note, count in notes.items():
        log.info("%s: %d of %d images are %s", name, count, len(whole), note)
    if notes[SCALED]:
        check_scaled(largest, name)
    if dtype != torch.uint8:
        check_pixel_range(dtype, ranges[:, 0].min(), ranges[:, 1].max(), "all", name)
    return Images(whole, torch.from_numpy(labels))


def _item(where: str, dataset: Any, number: int) -> tuple[Any, Any]:
    try:
        item = dataset[number]
    except Exception as error:  # the user's code may raise anything
        raise MosaicError(f"{where} cannot be read: {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(item, tuple | list) or len(item) != 2:
        got = type(item).__name__ + (f" of {len(item)}" if isinstance(item, tuple | list) else "")
        raise MosaicError(
            f"{where}: expected a pair of an image and its label, got {got}: wrap the dataset in one that gives pairs, "
            "and put it into a list if it is the only one"
        )
    return item[0], item[1]


def _pixels(where: str, image: Any, notes: Counter[str]) -> Tensor:
    """Return an image as a tensor with its channels first, and count what was changed."""
    if isinstance(image, Image.Image):
        try:
            image, changes = plain(image)
            image = np.array(image)
            notes.update(changes)
        except ValueError as error:
            raise MosaicError(f"{where}: {first_line(error)}: convert it first") from error
    if isinstance(image, np.ndarray):
        tensor = as_tensor(image) if image.dtype.kind in "buif" else None
        tensor = tensor.permute(2, 0, 1) if tensor is not None and tensor.ndim == 3 else tensor
    else:
        tensor = image.detach().cpu() if isinstance(image, Tensor) else None
    if tensor is None or tensor.ndim not in (2, 3) or (tensor.ndim == 3 and tensor.shape[0] not in (1, 3)):
        got = f"shape {tuple(image.shape)}" if isinstance(image, Tensor | np.ndarray) else type(image).__name__
        raise MosaicError(
            f"{where}: expected an image as a tensor (channels, H, W), an array (H, W, channels) or a PIL image, with "
            f"1 or 3 channels, got {got}"
        )
    if tensor.dtype == torch.uint16:
        notes[SCALED] += bool(tensor.numpy().any())  # black is black in 8 bits, too
        tensor = torch.from_numpy(scale_to_eight_bits(tensor.numpy()))
    return tensor if tensor.ndim == 3 else tensor[None]


def _label(where: str, label: Any, names: Names) -> int:
    single = isinstance(label, np.generic) or (isinstance(label, Tensor | np.ndarray) and math.prod(label.shape) == 1)
    value = label.item() if single else label
    if isinstance(value, str):
        if value in (names or ()):
            return (names or ()).index(value)
        known = f"one of the classes ({abridged(names)})" if names else "a whole number from 0 on"
        advice = "" if names else ": give class_names=[...] with the names of all classes, or number them"
        raise MosaicError(f"{where}: expected the label as {known}, got {value!r}{advice}")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        advice = ": of a one-hot label, give the place of the one" if isinstance(value, Tensor | np.ndarray) else ""
        raise MosaicError(f"{where}: expected the label as a whole number from 0 on, got {value!r}{advice}")
    return value
