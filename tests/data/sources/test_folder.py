import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic.data import FolderSource
from tests.data.refusals import refused
from tests.data.sources.made import class_folders, random_pixels, save


def whole(root: Path) -> Path:
    class_folders(root / "train")
    class_folders(root / "test", count=2)
    return root


def test_folders_give_images_in_order_of_names(tmp_path: Path) -> None:
    loaded = FolderSource(str(whole(tmp_path))).load()
    assert loaded.class_names == ("ant", "bee")
    assert loaded.train.labels.tolist() == [0] * 4 + [1] * 4
    assert loaded.test.labels.tolist() == [0, 0, 1, 1]
    assert np.array_equal(loaded.train.pixels[5].permute(1, 2, 0).numpy(), random_pixels(5, 6, 3, seed=101))


def test_a_share_of_each_class_is_the_test_and_the_seed_decides_which(tmp_path: Path) -> None:
    class_folders(tmp_path, count=10)
    one, same, other = (FolderSource(str(tmp_path), test_share=0.3, seed=seed).load() for seed in (0, 0, 1))
    assert one.test.labels.bincount().tolist() == [3, 3]
    assert one.train.labels.bincount().tolist() == [7, 7]
    assert one.test.pixels.equal(same.test.pixels)
    assert not one.test.pixels.equal(other.test.pixels)
    everything = {p.numpy().tobytes() for part in (one.train, one.test) for p in part.pixels}
    assert len(everything) == 20


@pytest.mark.parametrize("share", [0, 1, -0.1, 0.01])
def test_shares_that_leave_nothing_are_refused(share: float, tmp_path: Path) -> None:
    with refused("data.source.init_args.test_share"):
        FolderSource(str(class_folders(tmp_path)), test_share=share).load()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"seed": -1}, "seed: expected 0 or more, got -1"),
        ({"seed": 0.5}, "seed: expected a whole number, got 0.5"),
        ({"test_share": "half"}, "test_share: expected a share in (0, 1), got half"),
    ],
)
def test_a_share_or_a_seed_that_is_none_is_refused(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    with refused(f"data.source.init_args.{said}"):
        FolderSource(str(class_folders(tmp_path)), **{"test_share": 0.5, **settings}).load()


def test_files_that_are_no_images_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole(tmp_path)
    (tmp_path / "train" / "ant" / "notes.txt").write_text("a")
    (tmp_path / "train" / "loose.png").write_text("b")
    (tmp_path / "train" / ".hidden").write_text("c")
    with caplog.at_level(logging.WARNING):
        assert len(FolderSource(str(tmp_path)).load().train) == 8
    assert "2 files lie in no class" in caplog.text


def test_links_are_followed_and_those_that_lead_nowhere_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole(tmp_path / "data")
    train = tmp_path / "data" / "train"
    save(tmp_path / "store" / "a.png", random_pixels(5, 6, 3))
    (train / "ant" / "more").symlink_to(tmp_path / "store")
    (train / "bee" / "lost.png").symlink_to(tmp_path / "annex" / "lost.png")
    (train / "cow").symlink_to(tmp_path / "annex" / "cow")
    with caplog.at_level(logging.WARNING):
        loaded = FolderSource(str(tmp_path / "data")).load()
    assert loaded.train.labels.tolist() == [0] * 5 + [1] * 4
    assert "2 links lead nowhere and are left out, for example" in caplog.text
    assert str(train / "cow") in caplog.text


def test_a_link_that_leads_back_is_refused(tmp_path: Path) -> None:
    whole(tmp_path)
    (tmp_path / "train" / "ant" / "again").symlink_to(tmp_path / "train")
    with refused("data.source.init_args.root", "links that end somewhere", "ant/again"):
        FolderSource(str(tmp_path)).load()


def test_mixed_pictures_end_as_colour_of_one_size(tmp_path: Path) -> None:
    whole(tmp_path)
    save(tmp_path / "train" / "ant" / "a.png", random_pixels(9, 20))
    save(tmp_path / "train" / "ant" / "below" / "b.JPG", random_pixels(30, 8, 3))
    loaded = FolderSource(str(tmp_path), resize=[4, 8]).load()
    assert loaded.train.shape == (3, 4, 8)
    assert len(loaded.train) == 10


def test_sizes_without_a_rule_are_refused_by_file_and_key(tmp_path: Path) -> None:
    odd = save(whole(tmp_path) / "train" / "bee" / "7.png", random_pixels(9, 20, 3))
    with refused(str(odd), "9 x 20 after 5 x 6", "data.source.init_args.resize"):
        FolderSource(str(tmp_path)).load()


def test_a_truncated_picture_is_refused_by_name(tmp_path: Path) -> None:
    file = save(whole(tmp_path) / "train" / "bee" / "7.png", random_pixels(30, 30, 3))
    file.write_bytes(file.read_bytes()[:-500])
    with refused(str(file), "init_args.root", "cannot be decoded", "remove it"):
        FolderSource(str(tmp_path), resize=5).load()


def test_a_missing_root_is_refused(tmp_path: Path) -> None:
    with refused(str(tmp_path / "no"), "does not exist", "--data.source.init_args.root"):
        FolderSource(str(tmp_path / "no")).load()


def test_a_missing_test_folder_names_both_ways_out(tmp_path: Path) -> None:
    class_folders(tmp_path / "train")
    with refused(str(tmp_path / "test"), "--data.source.init_args.test_share"):
        FolderSource(str(tmp_path)).load()


def test_a_class_that_is_only_in_the_test_is_refused(tmp_path: Path) -> None:
    save(whole(tmp_path) / "test" / "cow" / "0.png", random_pixels(5, 6, 3))
    with refused("init_args.root", "only classes that are in the training folder", "got cow"):
        FolderSource(str(tmp_path)).load()


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    with refused("one folder per class", "got none"):
        FolderSource(str(tmp_path)).load()


def test_empty_classes_are_refused(tmp_path: Path) -> None:
    whole(tmp_path)
    for file in (tmp_path / "test").rglob("*.png"):
        file.unlink()
    with refused("init_args.root", f"images below {tmp_path / 'test'}", "got none"):
        FolderSource(str(tmp_path)).load()


def test_a_share_of_a_folder_that_holds_both_splits_is_refused(tmp_path: Path) -> None:
    """Or the classes would be called train and test."""
    root = whole(tmp_path)
    with refused("expected one folder per class", "got the folders train and test", "leave", "test_share"):
        FolderSource(str(root), test_share=0.5).load()


def test_pictures_of_eight_bits_in_sixteen_are_refused_among_others(tmp_path: Path) -> None:
    for split in ("train", "test"):
        class_folders(tmp_path / split, shape=(5, 6))
    save(tmp_path / "train/bee/2.png", random_pixels(5, 6).astype(np.uint16))
    with refused("expected images of 16 bits", "none above 385"):
        FolderSource(str(tmp_path)).load()
    for harmless in (random_pixels(5, 6).astype(np.uint16) * 257, np.zeros((5, 6), np.uint16)):
        save(tmp_path / "train/bee/2.png", harmless)
        assert len(FolderSource(str(tmp_path)).load().train) == 8
