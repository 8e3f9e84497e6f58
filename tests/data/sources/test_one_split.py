"""Sources of a party that has only one split: a client its training images, a server its test images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mosaic.data import FolderSource, NpzSource, SklearnDigits
from mosaic.errors import MosaicError

PIXELS = np.arange(3 * 4 * 4, dtype=np.uint8).reshape(3, 4, 4)


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_npz_file_with_one_split(split: str, tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    np.savez(path, **{f"{split}_images": PIXELS, f"{split}_labels": np.array([5, 2, 5])})
    images, names = NpzSource(str(path)).load_split(split)  # type: ignore[arg-type]
    assert torch.equal(images.pixels[:, 0], torch.from_numpy(PIXELS))
    assert [names[label] for label in images.labels.tolist()] == ["5", "2", "5"]
    with pytest.raises(MosaicError, match="are missing"):
        NpzSource(str(path)).load()


def test_an_npz_file_with_names_and_one_class(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    np.savez(path, train_images=PIXELS, train_labels=np.array([1, 1, 1]), class_names=np.array(["cat", "dog"]))
    images, names = NpzSource(str(path)).load_split("train")
    assert [names[label] for label in images.labels.tolist()] == ["dog"] * 3


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_folder_with_one_split(split: str, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / split / name).mkdir(parents=True)
        Image.fromarray(PIXELS[0]).save(tmp_path / split / name / "1.png")
    images, names = FolderSource(str(tmp_path)).load_split(split)  # type: ignore[arg-type]
    assert (len(images), names) == (2, ("cat", "dog"))
    other = "test" if split == "train" else "train"
    with pytest.raises(MosaicError, match="does not exist"):
        FolderSource(str(tmp_path)).load_split(other)  # type: ignore[arg-type]


def test_any_other_source_gives_one_of_both() -> None:
    source = SklearnDigits()
    images, names = source.load_split("test")
    assert torch.equal(images.pixels, source.load().test.pixels)
    assert names == source.load().class_names
