"""Images from one ``.npz`` file in the layout of MedMNIST."""

import logging
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mosaic.data.sources.base import Found, PictureSource, Split
from mosaic.data.sources.files import file_identity, find_file, origin_of, readable
from mosaic.data.sources.pictures import Pictures, joined, make_pictures
from mosaic.errors import MosaicError, require_choice

log = logging.getLogger(__name__)

BLOCK_BYTES = 2**25
_READ = ("train_", "val_", "test_", "class_names")

ValidationPart = Literal["train", "leave_out"]


class NpzSource(PictureSource):
    """One ``.npz`` file with ``train_images``, ``train_labels``, ``test_images`` and ``test_labels`` (MedMNIST layout).

    Images are uint8 or uint16, shape ``(N, H, W)`` or ``(N, H, W, channels)``; labels are integers, shape ``(N,)`` or
    ``(N, 1)``. A key ``class_names``, if present, names the classes. Every other key ``train_X`` with one value per
    image becomes the group ``X``, such as ``train_domains``. Arrays are read in blocks, so that a file may be larger
    than memory; pickled objects are refused.

    Args:
        path: path of the file.
        validation: whether ``val_images`` and ``val_labels``, if present, join the training images, from which each
            client holds out its own validation images, or are left out. The log says which.
        md5: md5 of the file, compared before it is read.
        settings: ``resize``, ``channels``, ``memory_limit_gib`` and ``cache_dir`` of :class:`PictureSource`.
    """

    def __init__(
        self, path: str, validation: ValidationPart = "train", md5: str | None = None, **settings: Any
    ) -> None:
        super().__init__(**settings)
        require_choice("data.source.init_args", ValidationPart, validation=validation)
        self.path, self.validation, self.md5 = path, validation, md5

    def find(self) -> Found:
        """Read the labels and the headers of the images."""
        (train, test), names = self._find("train", "test")
        return Found(train, test, names)

    def find_split(self, split: Split) -> tuple[Pictures, tuple[str, ...] | None]:
        """Read the labels and the header of one split; the file need not have the other."""
        (part,), names = self._find(split)
        return part, names

    def _find(self, *splits: Split) -> tuple[list[Pictures], tuple[str, ...] | None]:
        file = find_file(self.path, "path", self.md5)
        origin = origin_of(file, "path")
        stored, small = readable(partial(_open_npz, file), origin)
        wanted = [f"{split}_{what}" for split in splits for what in ("images", "labels")]
        missing = [key for key in wanted if key not in stored]
        if missing:
            raise MosaicError(f"{origin}: expected the keys {wanted}, got {sorted(stored)}: {missing} are missing")
        found = [_split(split, stored, small, origin) for split in splits]
        if "val_images" in stored and "train" in splits:
            count = (*stored["val_images"].shape, 0)[0]
            if count == 0:
                log.info("%s: val_images holds no images", origin)
            elif self.validation == "leave_out":
                log.info("%s: %d images of val_images are left out (data.source.init_args.validation)", origin, count)
            elif "val_labels" not in stored:
                raise MosaicError(
                    f"{origin}: expected val_labels with val_images, got {sorted(stored)}: add them, or set "
                    "data.source.init_args.validation to leave_out"
                )
            else:
                log.info("%s: %d images of val_images join the %d of train_images", origin, count, len(found[0]))
                found[0] = joined(found[0], _split("val", stored, small, origin))
        if "class_names" not in small:
            return found, None
        names = small["class_names"].ravel().tolist()
        text = (name.decode(errors="surrogateescape") if isinstance(name, bytes) else str(name) for name in names)
        return found, tuple(text)  # names that are no UTF-8 are refused where names are checked


@dataclass(frozen=True)
class StoredArray:
    """An array in an archive, not yet read; ``fortran`` says that it is stored column by column."""

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield blocks of rows."""
        if self.fortran:
            with self.file.open("rb") as opened:
                yield np.load(opened, allow_pickle=False)[self.key]
            return
        row = self.dtype.itemsize * int(np.prod(self.shape[1:]))
        step = max(1, BLOCK_BYTES // max(1, row))
        with zipfile.ZipFile(self.file) as archive, archive.open(f"{self.key}.npy") as stream:
            _read_head(stream)
            for start in range(0, self.shape[0], step):
                count = min(step, self.shape[0] - start)
                data = stream.read(count * row)
                yield np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])
            stream.read()  # at the end zipfile compares the checksum


def _open_npz(file: Path) -> tuple[dict[str, StoredArray], dict[str, np.ndarray]]:
    """Read the headers of all arrays, and the data of those that hold no images."""
    with zipfile.ZipFile(file) as archive:
        heads = {}
        for name in archive.namelist():
            with archive.open(name) as stream:
                key = name.removesuffix(".npy")
                heads[key] = StoredArray(file, key, *_read_head(stream))
    with file.open("rb") as opened:  # given a path, numpy leaves an unreadable file open
        arrays = np.load(opened, allow_pickle=False)
        wanted = [key for key in heads if key.startswith(_READ) and not key.endswith("_images")]
        if objects := [key for key in wanted if heads[key].dtype.hasobject]:
            raise MosaicError(
                f"{file} cannot be read: {objects[0]} holds Python objects, which allow_pickle=False refuses: store it "
                "as an array of text or of numbers"
            )
        return heads, {key: arrays[key] for key in wanted}


def _read_head(stream: Any) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    return shape, dtype, fortran


def _split(split: str, stored: dict[str, StoredArray], small: dict[str, np.ndarray], origin: str) -> Pictures:
    images, labels = stored[f"{split}_images"], small[f"{split}_labels"]
    count = images.shape[0] if images.shape else 0
    _check_kind(split, images, labels, origin)
    others = {key.removeprefix(f"{split}_"): values for key, values in small.items() if key.startswith(f"{split}_")}
    for key, values in others.items():
        if key != "labels" and values.shape != (count,):
            log.warning(
                "%s: %s_%s is left out: expected a value for each of %d images, got shape %s",
                *(origin, split, key, count, values.shape),
            )
    return make_pictures(
        labels,
        count,
        blocks=images.blocks,
        origin=origin,
        identity=lambda: (*file_identity([images.file]), images.key),
        groups={key: v for key, v in others.items() if key != "labels" and v.shape == (count,)},
    )


def _check_kind(split: str, images: StoredArray, labels: np.ndarray, origin: str) -> None:
    """Refuse the sets of MedMNIST that are multi-label or three-dimensional."""
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise MosaicError(
            f"{origin}: expected one class per image, got {split}_labels of shape {labels.shape}, several labels per "
            "image (multi-label, such as chestmnist): choose another file, or store one label of each image"
        )
    flat = len(images.shape) == 3 or (len(images.shape) == 4 and images.shape[-1] in (1, 2, 3, 4))
    if len(images.shape) in (4, 5) and not flat:
        raise MosaicError(
            f"{origin}: expected flat images, (N, H, W) or (N, H, W, channels), got {split}_images of shape "
            f"{images.shape}, volumes or channels first: choose a file without 3d in its name, or store slices"
        )
