"""Images out of datasets that the user's own code has made."""

from collections.abc import Iterator, Sequence, Sized
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mosaic.data.images import Images, ImageSet, eight_bits, make_image_set
from mosaic.data.sources.base import Source
from mosaic.errors import MosaicError, first_line

OWNER = "client"
"""Name of the groups that say which dataset an image is of."""


class DatasetsSource(Source):
    """Takes images out of map-style datasets, whose items are pairs of an image and its label.

    An image is a tensor of shape ``(channels, H, W)`` or ``(H, W)``, an array of shape ``(H, W)`` or
    ``(H, W, channels)``, or a PIL image; uint8, or floating point in ``[0, 1]``, which is rounded to 8 bits. A label is
    a whole number. All are read once and held in memory.

    Args:
        train: datasets to train on; the images of the i-th are of group i by ``client``.
        test: dataset to test on.
        class_names: names of the classes; those of a dataset's ``classes``, or else numbers, when not given.
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

    def load(self) -> ImageSet:
        """Read all items."""
        parts = [_read(name, dataset) for name, dataset in _named(self._train, self._test)]
        shape = parts[0].shape
        for (name, _), part in zip(_named(self._train, self._test), parts, strict=True):
            if part.shape != shape:
                raise MosaicError(f"{name}: expected images of shape {shape} as in datasets[0], got {part.shape}")
        *train, test = parts
        owners = np.repeat(np.arange(len(train)), [len(part) for part in train])
        pixels, labels = torch.cat([part.pixels for part in train]), torch.cat([part.labels for part in train])
        whole = Images(pixels, labels, {OWNER: owners})
        return make_image_set(whole, test, self._class_names([*train, test]), "datasets")

    def _class_names(self, parts: Sequence[Images]) -> tuple[str, ...]:
        names = self._names if self._names is not None else getattr(self._train[0], "classes", None)
        if names is None:
            return tuple(map(str, range(max(int(part.labels.max()) for part in parts) + 1)))
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            raise MosaicError(f"class_names: expected a list of text, one for each class, got {names!r}")
        return tuple(names)


def _named(train: Sequence[Any], test: Any) -> Iterator[tuple[str, Any]]:
    yield from ((f"datasets[{number}]", dataset) for number, dataset in enumerate(train))
    yield "test", test


def _read(name: str, dataset: Any) -> Images:
    """Read the items of one dataset."""
    pixels, labels = [], []
    for number in range(len(dataset)):
        where = f"{name}[{number}]"
        image, label = _item(where, dataset, number)
        pixels.append(_pixels(where, image))
        labels.append(_label(where, label))
        if pixels[-1].shape != pixels[0].shape or pixels[-1].dtype != pixels[0].dtype:
            got = f"{pixels[-1].dtype} of shape {tuple(pixels[-1].shape)}"
            raise MosaicError(
                f"{where}: expected {pixels[0].dtype} of shape {tuple(pixels[0].shape)} as in {name}[0], got {got}: "
                "resize and convert the images first"
            )
    return Images(eight_bits(torch.stack(pixels), "all", name), torch.tensor(labels))


def _item(where: str, dataset: Any, number: int) -> tuple[Any, Any]:
    try:
        item = dataset[number]
    except Exception as error:  # the user's code may raise anything
        raise MosaicError(f"{where} cannot be read: {type(error).__name__}: {first_line(error)}") from error
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise MosaicError(f"{where}: expected a pair of an image and its label, got {type(item).__name__}")
    return item[0], item[1]


def _pixels(where: str, image: Any) -> Tensor:
    """Return an image as a tensor with its channels first."""
    if isinstance(image, Image.Image):
        image = np.array(image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB"))
    if isinstance(image, np.ndarray):
        tensor = torch.from_numpy(np.ascontiguousarray(image)) if image.dtype.kind in "buif" else None
        tensor = tensor.permute(2, 0, 1) if tensor is not None and tensor.ndim == 3 else tensor
    else:
        tensor = image.detach().cpu() if isinstance(image, Tensor) else None
    if tensor is None or tensor.ndim not in (2, 3) or (tensor.ndim == 3 and tensor.shape[0] not in (1, 3)):
        got = f"shape {tuple(image.shape)}" if isinstance(image, Tensor | np.ndarray) else type(image).__name__
        raise MosaicError(
            f"{where}: expected an image as a tensor (channels, H, W), an array (H, W, channels) or a PIL image, with "
            f"1 or 3 channels, got {got}"
        )
    return tensor if tensor.ndim == 3 else tensor[None]


def _label(where: str, label: Any) -> int:
    single = isinstance(label, np.generic) or (isinstance(label, Tensor | np.ndarray) and label.ndim == 0)
    value = label.item() if single else label
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise MosaicError(f"{where}: expected the label as a whole number from 0 on, got {value!r}")
    return value
