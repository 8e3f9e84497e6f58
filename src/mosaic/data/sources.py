"""Where images come from. Each source is named in YAML by its class and loads into memory once."""

import io
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from mosaic.data.images import Images, ImageSet, images_from_arrays, make_image_set
from mosaic.errors import MosaicError


class Source(ABC):
    """A data set that can be loaded."""

    @abstractmethod
    def load(self) -> ImageSet:
        """Return the whole data set.

        Raises:
            MosaicError: files are missing or do not hold what they should.
        """


class SklearnDigits(Source):
    """Handwritten digits, 8x8 grey, 1,797 images (Alpaydin and Kaynak 1998); they ship with scikit-learn.

    The split is fixed, stratified and the same on every machine: 1,198 images to train on and 599 to test on.
    """

    def load(self) -> ImageSet:
        """Return the digits as uint8 images."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        pixels, labels = load_digits(return_X_y=True)
        pixels = np.round(pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        train, test = train_test_split(np.arange(len(labels)), test_size=599, stratify=labels, random_state=0)
        parts = [images_from_arrays(pixels[part], labels[part], "scikit-learn digits") for part in (train, test)]
        return make_image_set(parts[0], parts[1], tuple(str(digit) for digit in range(10)), "scikit-learn digits")


class TorchvisionSource(Source):
    """A torchvision data set with a training and a test split, such as CIFAR10, CIFAR100, MNIST or FashionMNIST.

    Args:
        name: class in ``torchvision.datasets`` whose constructor takes ``root``, ``train`` and ``download``.
        root: folder that holds, or will hold, the files.
        download: whether missing files may be fetched.
    """

    def __init__(self, name: str, root: str = "data", download: bool = False) -> None:
        self.name, self.root, self.download = name, root, download

    def load(self) -> ImageSet:
        """Load both splits."""
        train, test = self._split(train=True), self._split(train=False)
        parts = [images_from_arrays(np.asarray(d.data), np.asarray(d.targets), self.name) for d in (train, test)]
        names = getattr(train, "classes", range(int(parts[0].labels.max()) + 1))  # USPS has none
        return make_image_set(parts[0], parts[1], tuple(str(name) for name in names), self.name)

    def _split(self, train: bool) -> Any:
        import torchvision.datasets

        dataset = getattr(torchvision.datasets, self.name, None)
        if dataset is None:
            raise MosaicError(f"torchvision.datasets has no class {self.name!r}: check data.source.init_args.name")
        try:
            return dataset(root=self.root, train=train, download=self.download)
        except TypeError as error:
            raise MosaicError(
                f"torchvision.datasets.{self.name}: expected a class that takes root, train and download "
                f"({_first_line(error)}): choose another such as CIFAR10, or store the images for mosaic.data.NpzSource"
            ) from error
        except Exception as error:  # torchvision raises RuntimeError, URLError or OSError, depending on the set
            looked_at = Path(self.root).expanduser().resolve()
            raise MosaicError(
                f"{self.name} was not found under {looked_at} ({_first_line(error)}): put the files there, or "
                "allow the download with --data.source.init_args.download true (this needs a network)"
            ) from error


class ParquetSource(Source):
    """Two parquet files with an image column and a label column, as the Hugging Face hub keeps them.

    Images are stored compressed as ``{"bytes", "path"}``; they are decoded once, when loading.

    Args:
        train: path of the training file.
        test: path of the test file.
        image_column: name of the image column.
        label_column: name of the label column.
    """

    def __init__(self, train: str, test: str, image_column: str = "image", label_column: str = "label") -> None:
        self.train, self.test = train, test
        self.image_column, self.label_column = image_column, label_column

    def load(self) -> ImageSet:
        """Decode both files."""
        (train, names), (test, _) = self._read(self.train, "train"), self._read(self.test, "test")
        if names is None:
            names = tuple(str(label) for label in range(int(train.labels.max()) + 1))
        return make_image_set(train, test, names, str(self.train))

    def _read(self, path: str, key: str) -> tuple[Images, tuple[str, ...] | None]:
        import pyarrow.parquet

        table = _open(path, key, lambda file: pyarrow.parquet.read_table(file))
        missing = {self.image_column, self.label_column} - set(table.column_names)
        if missing:
            raise MosaicError(
                f"{path}: expected columns {self.image_column!r} and {self.label_column!r}, got {table.column_names}: "
                "set data.source.init_args.image_column and label_column"
            )
        decoded = [self._decode(cell, path) for cell in table[self.image_column].to_pylist()]
        shapes = sorted({image.shape for image in decoded})
        if len(shapes) != 1:
            raise MosaicError(
                f"{path}: expected images of one shape, got {shapes or 'no image'}: make them alike first"
            )
        labels = table[self.label_column].to_numpy()
        return images_from_arrays(np.stack(decoded), labels, path), self._class_names(table)

    def _decode(self, cell: Any, path: str) -> np.ndarray:
        from PIL import Image

        try:
            return np.asarray(Image.open(io.BytesIO(cell["bytes"])))
        except (KeyError, TypeError, ValueError, OSError) as error:  # no bytes, or of something else
            raise MosaicError(
                f'{path}: expected {{"bytes", "path"}} with an encoded image in each cell of {self.image_column!r}, '
                f"got one that cannot be decoded ({_first_line(error)}): "
                "set data.source.init_args.image_column, or fetch the file again"
            ) from error

    def _class_names(self, table: Any) -> tuple[str, ...] | None:
        """Read the names that the hub keeps beside the schema, where there are any."""
        import json

        metadata = (table.schema.metadata or {}).get(b"huggingface")
        if metadata is None:
            return None
        feature = json.loads(metadata)["info"]["features"].get(self.label_column, {})
        return tuple(feature["names"]) if "names" in feature else None


class NpzSource(Source):
    """One ``.npz`` file with ``train_images``, ``train_labels``, ``test_images`` and ``test_labels`` (MedMNIST layout).

    Args:
        path: of the file. A key ``class_names`` in it, if present, names the classes.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def load(self) -> ImageSet:
        """Read the arrays; nothing in the file is executed."""
        arrays = _open(self.path, "path", _read_npz)
        wanted = ["train_images", "train_labels", "test_images", "test_labels"]
        missing = [key for key in wanted if key not in arrays]
        if missing:
            raise MosaicError(f"{self.path}: expected the keys {wanted}, got {sorted(arrays)}: {missing} are missing")
        train = images_from_arrays(arrays["train_images"], arrays["train_labels"], self.path)
        test = images_from_arrays(arrays["test_images"], arrays["test_labels"], self.path)
        names = arrays.get("class_names", np.arange(int(train.labels.max()) + 1))
        return make_image_set(train, test, tuple(str(name) for name in names), self.path)


def _open(path: str, key: str, read: Any) -> Any:
    file = Path(os.path.expandvars(path)).expanduser()
    if not file.is_file():
        unset = " (an environment variable in it is not set)" if "$" in str(file) else ""
        raise MosaicError(
            f"{file.resolve()} does not exist{unset}: put the file there, or say where it is with "
            f"--data.source.init_args.{key}"
        )
    try:
        return read(file)
    except Exception as error:  # zipfile, numpy and pyarrow each have their own
        raise MosaicError(f"{file} cannot be read ({_first_line(error)}): fetch the file again") from error


def _read_npz(file: Path) -> dict[str, np.ndarray]:
    with file.open("rb") as opened:  # given a path, numpy leaves a file open that it cannot read
        return dict(np.load(opened, allow_pickle=False))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
