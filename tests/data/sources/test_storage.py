import errno
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic.data import FolderSource, NpzSource
from mosaic.data.images import ImageSet
from mosaic.data.sources.storage import cached
from mosaic.errors import MosaicError
from tests.data.refusals import refused
from tests.data.sources.made import class_folders, medmnist, random_pixels, save


def mapped(path: str, cache: Path, **settings: Any) -> ImageSet:
    return NpzSource(path, memory_limit_gib=0, cache_dir=str(cache), **settings).load()


def arrays(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.npy"))


def test_mapped_images_are_those_in_memory(tmp_path: Path) -> None:
    path = medmnist(tmp_path / "a.npz")
    one, other = NpzSource(path).load(), mapped(path, tmp_path / "cache")
    assert one.train.pixels.equal(other.train.pixels)
    assert one.test.pixels[[2, 0]].equal(other.test.pixels[[2, 0]])
    assert [file.suffix for file in arrays(tmp_path / "cache")] == [".npy", ".npy"]


def test_small_sets_leave_no_file(tmp_path: Path) -> None:
    NpzSource(medmnist(tmp_path / "a.npz"), cache_dir=str(tmp_path / "cache")).load()
    assert not (tmp_path / "cache").exists()


def test_a_second_start_decodes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = medmnist(tmp_path / "a.npz")
    first = mapped(path, tmp_path / "cache").train.pixels
    times = [file.stat().st_mtime_ns for file in arrays(tmp_path / "cache")]
    with caplog.at_level(logging.INFO):
        assert mapped(path, tmp_path / "cache").train.pixels.equal(first)
    assert [file.stat().st_mtime_ns for file in arrays(tmp_path / "cache")] == times
    assert "an earlier start" in caplog.text


def test_writing_to_mapped_images_does_not_reach_the_file(tmp_path: Path) -> None:
    path = medmnist(tmp_path / "a.npz")
    before = mapped(path, tmp_path / "cache").train.pixels
    kept = before.clone()
    before.zero_()
    assert mapped(path, tmp_path / "cache").train.pixels.equal(kept)


def test_other_rules_or_another_file_are_decoded_again(tmp_path: Path) -> None:
    cache, path = tmp_path / "cache", medmnist(tmp_path / "a.npz")
    mapped(path, cache)
    assert mapped(path, cache, resize=14).train.shape == (1, 14, 14)
    medmnist(tmp_path / "a.npz", test_images=random_pixels(4, 28, 28, seed=9))
    os.utime(path, ns=(1, 1))
    assert np.array_equal(mapped(path, cache).test.pixels[:, 0].numpy(), random_pixels(4, 28, 28, seed=9))
    assert len(arrays(cache)) == 6


def test_grey_among_colour_is_found_while_writing(tmp_path: Path) -> None:
    class_folders(tmp_path / "set", shape=(5, 6))
    save(tmp_path / "set" / "bee" / "9.png", random_pixels(5, 6, 3))
    source = FolderSource(str(tmp_path / "set"), test_share=0.3, memory_limit_gib=0, cache_dir=str(tmp_path / "cache"))
    assert source.load().train.shape == (3, 5, 6)
    assert list((tmp_path / "cache").glob("*.tmp")) == []


def test_an_interrupted_decoding_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    def stop(out: np.ndarray) -> None:
        out[0] = 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(str(tmp_path), (2, 1, 3, 3), "key", stop)
    assert arrays(tmp_path) == []
    assert (cached(str(tmp_path), (2, 1, 3, 3), "key", lambda out: out.fill(7)) == 7).all()


@pytest.mark.parametrize("left", [0, 60, 200])
def test_a_file_that_is_cut_is_decoded_again(left: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, cache = medmnist(tmp_path / "a.npz"), tmp_path / "cache"
    expected = mapped(path, cache).train.pixels.clone()
    for file in arrays(cache):
        file.write_bytes(file.read_bytes()[:left])
    assert mapped(path, cache).train.pixels.equal(expected)
    assert "is damaged" in caplog.text
    caplog.clear()
    assert mapped(path, cache).train.pixels.equal(expected)
    assert "is damaged" not in caplog.text


def test_a_cache_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with refused(str(tmp_path / "file"), "init_args.cache_dir", "cannot be written to", "choose another"):
        mapped(medmnist(tmp_path / "a.npz"), tmp_path / "file")


def test_a_disk_without_space_is_refused(tmp_path: Path) -> None:
    with refused(str(tmp_path), "init_args.cache_dir", "free space", "init_args.memory_limit_gib"):
        cached(str(tmp_path), (2**40, 3, 2**8, 2**8), "key", lambda out: None)


def test_a_negative_limit_is_refused() -> None:
    with refused("data.source.init_args.memory_limit_gib", "at least 0", "got -1"):
        NpzSource("a.npz", memory_limit_gib=-1)


def test_a_folder_in_which_nothing_can_be_locked_is_named_by_its_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    with pytest.raises(MosaicError, match=r"\(data.source.init_args.cache_dir\) cannot be written to"):
        mapped(medmnist(tmp_path / "a.npz"), tmp_path / "cache")
