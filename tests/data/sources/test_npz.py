import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic.data import DirichletPartition, FederatedDataModule, NpzSource
from mosaic.data.sources import npz
from tests.data.refusals import refused
from tests.data.sources.made import medmnist, random_pixels


def load(path: str, **settings: Any) -> Any:
    return NpzSource(path, **settings).load()


def test_validation_images_join_the_training_part_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        loaded = load(medmnist(tmp_path / "a.npz"))
    expected = np.concatenate([random_pixels(6, 28, 28), random_pixels(3, 28, 28, seed=1)])
    assert np.array_equal(loaded.train.pixels[:, 0].numpy(), expected)
    assert loaded.train.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2]
    assert len(loaded.test) == 4
    assert "3 images of val_images join" in caplog.text


def test_validation_images_are_left_out_on_request_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        loaded = load(medmnist(tmp_path / "a.npz"), validation="leave_out")
    assert len(loaded.train) == 6
    assert "3 images of val_images are left out" in caplog.text


def test_validation_images_without_labels_are_refused(tmp_path: Path) -> None:
    path = medmnist(tmp_path / "a.npz", val_labels=None)
    with refused(path, "val_labels with val_images", "leave_out"):
        load(path)


@pytest.mark.parametrize("names", [["ant", "bee", "cat"], [b"ant", b"bee", b"cat"]])
def test_class_names_are_text_or_bytes(names: list[Any], tmp_path: Path) -> None:
    assert load(medmnist(tmp_path / "a.npz", class_names=np.array(names))).class_names == ("ant", "bee", "cat")


def test_several_labels_per_image_are_refused(tmp_path: Path) -> None:
    path = medmnist(tmp_path / "chest.npz", train_labels=np.zeros((6, 14), np.uint8))
    with refused(path, "one class per image", "train_labels of shape (6, 14)", "multi-label", "choose another"):
        load(path)


def test_volumes_are_refused(tmp_path: Path) -> None:
    path = medmnist(tmp_path / "organ3d.npz", train_images=np.zeros((6, 28, 28, 28), np.uint8))
    with refused(path, "flat images", "train_images of shape (6, 28, 28, 28)", "volumes", "choose a file"):
        load(path)


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_arrays_of_sixteen_bits_are_scaled(order: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    deep = {f"{split}_images": np.full((n, 3, 3), 65280, order) for split, n in (("train", 6), ("test", 4))}
    with caplog.at_level(logging.INFO):
        loaded = load(medmnist(tmp_path / "a.npz", **deep, val_images=None))
    assert (loaded.train.pixels == 254).all()
    assert "6 of 6 images are of 16 bits" in caplog.text


def test_arrays_with_alpha_are_put_on_white(tmp_path: Path) -> None:
    clear = {f"{split}_images": np.zeros((n, 3, 3, 4), np.uint8) for split, n in (("train", 6), ("test", 4))}
    loaded = load(medmnist(tmp_path / "a.npz", **clear, val_images=None))
    assert loaded.train.shape == (3, 3, 3)
    assert (loaded.train.pixels == 255).all()


def test_a_grey_and_a_coloured_split_are_both_coloured(tmp_path: Path) -> None:
    colour = random_pixels(4, 28, 28, 3)
    loaded = load(medmnist(tmp_path / "a.npz", test_images=colour))
    assert loaded.train.shape == loaded.test.shape == (3, 28, 28)
    assert np.array_equal(loaded.test.pixels.permute(0, 2, 3, 1).numpy(), colour)
    assert loaded.train.pixels[:, 0].equal(loaded.train.pixels[:, 2])


def test_colour_in_the_validation_part_makes_all_images_coloured(tmp_path: Path) -> None:
    loaded = load(medmnist(tmp_path / "a.npz", val_images=random_pixels(3, 28, 28, 3)))
    assert loaded.train.shape == loaded.test.shape == (3, 28, 28)


def test_arrays_are_resized_and_forced_to_channels(tmp_path: Path) -> None:
    assert load(medmnist(tmp_path / "a.npz"), resize=[14, 7], channels=3).train.shape == (3, 14, 7)
    assert load(medmnist(tmp_path / "a.npz"), channels=1).test.shape == (1, 28, 28)


@pytest.mark.parametrize("order", ["C", "F"])
def test_pieces_make_the_whole(order: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "BLOCK_BYTES", 2 * 28 * 28 + 5)
    pixels = random_pixels(5, 28, 28)
    path = medmnist(tmp_path / "a.npz", test_images=np.asarray(pixels, order=order), test_labels=np.arange(5) % 3)
    assert np.array_equal(load(path).test.pixels[:, 0].numpy(), pixels)


def test_other_keys_of_the_training_part_are_groups(tmp_path: Path) -> None:
    path = medmnist(tmp_path / "a.npz", train_domains=np.arange(6), val_domains=np.arange(3), domain_names=np.ones(2))
    assert load(path).train.groups["domains"].tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2]


def test_groups_that_only_one_part_has_are_left_out_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = medmnist(tmp_path / "a.npz", train_site=np.arange(6), val_room=np.arange(3))
    assert load(path).train.groups.keys() == set()
    assert "groups that only one of the joined parts has are left out: room, site" in caplog.text


def test_other_keys_without_a_value_for_each_image_are_left_out_aloud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = medmnist(tmp_path / "a.npz", train_domains=np.arange(5), val_images=None)
    assert load(path).train.groups == {}
    assert "train_domains is left out: expected a value for each of 6 images, got shape (5,)" in caplog.text


def test_class_names_in_another_encoding_are_refused(tmp_path: Path) -> None:
    source = NpzSource(medmnist(tmp_path / "a.npz", class_names=np.array([b"a", b"M\xfcnchen", b"c"])))
    with refused("data.source (NpzSource)", "that UTF-8 can write", "rename it"):
        _ = FederatedDataModule(source, DirichletPartition(1, 1)).images


def test_a_damaged_array_is_refused(tmp_path: Path) -> None:
    path = Path(medmnist(tmp_path / "a.npz"))
    content = bytearray(path.read_bytes())
    content[2000:2100] = bytes(100)  # inside train_images
    path.write_bytes(content)
    with refused(str(path), "init_args.path", "cannot be read", "fetch the file again"):
        load(str(path))


def test_the_md5_is_compared_before_the_file_is_read(tmp_path: Path) -> None:
    path = Path(medmnist(tmp_path / "a.npz"))
    assert len(load(str(path), md5=hashlib.md5(path.read_bytes()).hexdigest().upper()).test) == 4
    path.write_bytes(b"another file")
    with refused(str(path), "init_args.path", "expected md5 " + "0" * 32, "fetch the file again"):
        load(str(path), md5="0" * 32)


def test_a_class_with_one_image_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    source = NpzSource(medmnist(tmp_path / "a.npz", train_labels=labels, val_images=None))
    assert len(FederatedDataModule(source, DirichletPartition(1, 1)).images.train) == 6
    assert [(r.levelname, "1 of 3 classes have one training image" in r.message) for r in caplog.records] == [
        ("WARNING", True)
    ]


@pytest.mark.parametrize("resize", [None, 14])
def test_eight_bits_in_sixteen_are_refused_beside_a_part_of_eight(resize: int | None, tmp_path: Path) -> None:
    path = medmnist(tmp_path / "a.npz", train_images=random_pixels(6, 28, 28).astype(np.uint16))
    with refused("expected images of 16 bits", "none above 385"):
        load(path, resize=resize)
