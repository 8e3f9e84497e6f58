from pathlib import Path

import pytest

from mosaic.data import TinyImageNetSource
from tests.data.refusals import refused
from tests.data.sources.made import random_pixels, save

WNIDS = ("n02124075", "n01443537")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The published layout, with two classes of three images; the first is grey."""
    (tmp_path / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in WNIDS))
    (tmp_path / "words.txt").write_text("n00001740\tentity\nn01443537\tgoldfish, Carassius\nn02124075\tEgyptian cat\n")
    for label, wnid in enumerate(WNIDS):
        for i in range(3):
            shape = (8, 8) if label == i == 0 else (8, 8, 3)
            save(tmp_path / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", random_pixels(*shape, seed=i))
    for i in range(2):
        save(tmp_path / "val" / "images" / f"val_{i}.JPEG", random_pixels(8, 8, 3, seed=10 + i))
    (tmp_path / "val" / "val_annotations.txt").write_text(
        f"val_1.JPEG\t{WNIDS[1]}\t0\t0\t7\t7\nval_0.JPEG\t{WNIDS[0]}\t0\t0\t7\t7\n"
    )
    return tmp_path


def test_classes_come_in_the_published_order_and_validation_is_the_test(root: Path) -> None:
    loaded = TinyImageNetSource(str(root)).load()
    assert loaded.class_names == ("Egyptian cat", "goldfish")
    assert loaded.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert loaded.test.labels.tolist() == [1, 0]
    assert loaded.train.shape == (3, 8, 8)


@pytest.mark.parametrize("file", ["wnids.txt", "words.txt", "val/val_annotations.txt"])
def test_missing_lists_are_refused(file: str, root: Path) -> None:
    (root / file).unlink()
    with refused(str(root / file), "init_args.root", "cannot be read"):
        TinyImageNetSource(str(root)).load()


def test_an_unknown_class_is_refused(root: Path) -> None:
    (root / "val" / "val_annotations.txt").write_text("val_1.JPEG\tn99\t0\n")
    with refused("val_annotations.txt", "a class of wnids.txt", "n99"):
        TinyImageNetSource(str(root)).load()


def test_a_missing_image_is_refused(root: Path) -> None:
    (root / "val" / "images" / "val_0.JPEG").unlink()
    with refused(str(root / "val" / "images" / "val_0.JPEG"), "cannot be decoded", "init_args.root"):
        TinyImageNetSource(str(root)).load()


def test_a_missing_image_is_refused_before_files_are_looked_up(root: Path, tmp_path: Path) -> None:
    (root / "val" / "images" / "val_0.JPEG").unlink()
    with refused(str(root / "val" / "images" / "val_0.JPEG"), "cannot be read", "init_args.root"):
        TinyImageNetSource(str(root), memory_limit_gib=0, cache_dir=str(tmp_path / "cache")).load()


def test_a_class_without_images_is_refused(root: Path) -> None:
    for file in (root / "train" / WNIDS[1] / "images").iterdir():
        file.unlink()
    with refused(f"for class {WNIDS[1]}", "got none", "unpack"):
        TinyImageNetSource(str(root)).load()
