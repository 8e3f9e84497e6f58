import gzip
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torchvision.datasets
from PIL import Image, ImageOps

from mosaic.data import TorchvisionSource
from mosaic.signatures import accepted_arguments
from tests.cases import for_each
from tests.data.refusals import refused
from tests.data.sources.made import random_pixels, save


def test_svhn_is_read_from_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, labels = random_pixels(32, 32, 3, 5), np.array([[10], [1], [2], [9], [10]], np.uint8)
    for split in ("train", "test"):
        scipy.io.savemat(tmp_path / f"{split}_32x32.mat", {"X": pixels, "y": labels})
    monkeypatch.setattr(torchvision.datasets.SVHN, "_check_integrity", lambda self: True)
    loaded = TorchvisionSource("SVHN", str(tmp_path)).load()
    assert loaded.train.shape == (3, 32, 32)
    assert [loaded.class_names[label] for label in loaded.train.labels] == ["0", "1", "2", "9", "0"]
    assert np.array_equal(loaded.test.pixels.permute(2, 3, 1, 0).numpy(), pixels)


def test_emnist_takes_its_split_from_the_arguments(tmp_path: Path) -> None:
    folder = tmp_path / "EMNIST" / "raw"
    folder.mkdir(parents=True)
    for part, count in (("train", 4), ("test", 2)):
        head = struct.pack(">4i", 0x803, count, 28, 28), struct.pack(">2i", 0x801, count)
        bodies = random_pixels(count, 28, 28).tobytes(), bytes(range(count))
        for name, content in zip(("images-idx3", "labels-idx1"), zip(head, bodies, strict=True), strict=True):
            (folder / f"emnist-balanced-{part}-{name}-ubyte").write_bytes(b"".join(content))
    loaded = TorchvisionSource("EMNIST", str(tmp_path), arguments={"split": "balanced"}).load()
    assert loaded.num_classes == 47
    assert (len(loaded.train), len(loaded.test)) == (4, 2)


def test_transforms_act_on_pictures_and_labels_that_are_stored_in_one_array(tmp_path: Path) -> None:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    pixels = random_pixels(4, 28, 28)
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 0x803, 4, 28, 28) + pixels.tobytes())
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, 4) + bytes((1, 2, 5, 9)))
    asked = {"transform": ImageOps.mirror, "target_transform": lambda label: label % 5}
    loaded = TorchvisionSource("MNIST", str(tmp_path), arguments=asked).load()
    assert (loaded.class_names, loaded.train.labels.tolist()) == (("0", "1", "2", "4"), [1, 2, 0, 3])
    assert np.array_equal(loaded.train.pixels[:, 0].numpy(), pixels[:, :, ::-1])


def test_a_transform_of_pictures_leaves_the_list_of_labels_alone(tmp_path: Path) -> None:
    for place, name in enumerate("aabb"):
        save(tmp_path / name / f"{place}.png", random_pixels(5, 6))
    decoded = []
    asked = {"transform": lambda picture: decoded.append(picture) or picture}
    TorchvisionSource("ImageFolder", str(tmp_path), arguments=asked, test_share=0.5).load()
    assert len(decoded) <= 3 * 4, "all pictures, and for the labels of each part the first one and the last one"


def test_a_target_transform_acts_though_the_first_and_the_last_label_stay(tmp_path: Path) -> None:
    for name in "abc":
        save(tmp_path / name / "0.png", random_pixels(5, 6))
        save(tmp_path / name / "1.png", random_pixels(5, 6))
    asked = {"target_transform": lambda label: (0, 2, 2)[label]}
    loaded = TorchvisionSource("ImageFolder", str(tmp_path), arguments=asked, test_share=0.5).load()
    assert (loaded.class_names, loaded.train.labels.tolist()) == (("0", "2"), [0, 1, 1])


def test_food101_is_decoded_item_by_item(tmp_path: Path) -> None:
    root = tmp_path / "food-101"
    listed = {"train": {"apple_pie": [1, 2], "baklava": [3]}, "test": {"apple_pie": [4], "baklava": [5]}}
    (root / "meta").mkdir(parents=True)
    for split, classes in listed.items():
        entries = {name: [f"{name}/{i}" for i in numbers] for name, numbers in classes.items()}
        (root / "meta" / f"{split}.json").write_text(json.dumps(entries))
        for path in [path for paths in entries.values() for path in paths]:
            save(root / "images" / f"{path}.jpg", random_pixels(20, 30, 3))
    loaded = TorchvisionSource("Food101", str(tmp_path), resize=8).load()
    assert loaded.class_names == ("apple_pie", "baklava")
    assert loaded.train.labels.tolist() == [0, 0, 1]
    assert loaded.test.shape == (3, 8, 8)
    save(root / "images" / "baklava" / "3.jpg", random_pixels(9, 9, 3))
    with refused("torchvision.datasets.Food101", "9 x 9 after 20 x 30", "data.source.init_args.resize"):
        TorchvisionSource("Food101", str(tmp_path)).load()


def test_a_class_without_a_test_part_gives_a_share(tmp_path: Path) -> None:
    for label, name in enumerate(("Forest", "River")):
        for i in range(4):
            save(tmp_path / "eurosat" / "2750" / name / f"{i}.png", random_pixels(6, 6, 3, seed=10 * label + i))
    loaded = TorchvisionSource("EuroSAT", str(tmp_path), test_share=0.25).load()
    assert loaded.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert loaded.test.labels.tolist() == [0, 1]
    with refused("EuroSAT", "init_args.test_share"):
        TorchvisionSource("EuroSAT", str(tmp_path)).load()


def test_pictures_that_have_changed_are_decoded_again(tmp_path: Path) -> None:
    settings = {"test_share": 0.1, "memory_limit_gib": 0, "cache_dir": str(tmp_path / "cache")}
    for name in ("ant", "bee"):
        for i in range(10):
            save(tmp_path / "set" / name / f"{i}.png", random_pixels(5, 6, 3, seed=i))

    def load() -> Any:
        return TorchvisionSource("ImageFolder", str(tmp_path / "set"), **settings).load().train.pixels.clone()

    before = load()
    for i in (2, 7):
        os.utime(save(tmp_path / "set" / "ant" / f"{i}.png", random_pixels(5, 6, 3, seed=50 + i)), ns=(i, i))
    assert (load() != before).flatten(1).any(1).sum() == 2


class Items:
    """Pictures and labels one by one, and no list of labels."""

    label: Any = 0

    def __init__(self, root: str, split: str = "train") -> None:
        self.split = split

    def __len__(self) -> int:
        return {"train": 4, "val": 2}[self.split]

    def __getitem__(self, i: int) -> tuple[Image.Image, Any]:
        return Image.fromarray(random_pixels(5, 6, seed=i)), type(self).label or i % 2


def test_labels_come_with_the_pictures_where_they_are_in_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets, "Items", Items, raising=False)
    loaded = TorchvisionSource("Items", test_split="val").load()
    assert loaded.train.labels.tolist() == [0, 1, 0, 1]
    assert loaded.test.shape == (1, 5, 6)


@pytest.mark.parametrize("label", ["cat", 0.5, (1, 2)])
def test_labels_that_are_no_whole_numbers_are_refused(label: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets, "Items", Items, raising=False)
    monkeypatch.setattr(Items, "label", label)
    with refused("torchvision.datasets.Items", "integer labels", "choose another class"):
        TorchvisionSource("Items", test_split="val").load()


@for_each(
    ("name", "argument"),
    [
        *[(name, "train") for name in ("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "KMNIST", "QMNIST", "USPS")],
        *[(name, "split") for name in ("EMNIST", "SVHN", "Food101", "STL10", "GTSRB", "Flowers102", "ImageNet")],
    ],
)
def test_what_a_constructor_takes_is_found_through_its_parents(name: str, argument: str) -> None:
    accepted, _ = accepted_arguments(getattr(torchvision.datasets, name))
    assert {"root", argument} <= accepted


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        for name in ("images-idx3", "labels-idx1"):
            (folder / f"{part}-{name}-ubyte").write_bytes(gzip.compress(b"not idx"))
    with refused("MNIST", str(tmp_path), "init_args.root"):
        TorchvisionSource("MNIST", str(tmp_path)).load()
