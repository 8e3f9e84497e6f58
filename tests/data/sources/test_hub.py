import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from mosaic.data import HubSource, ParquetSource
from tests.data.refusals import refused
from tests.data.sources.made import random_pixels


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hub"))
    names = datasets.ClassLabel(names=["ant", "bee"])
    features = datasets.Features(image=datasets.Image(), label=names, writer=datasets.Value("int64"))
    for seed, (split, count) in enumerate({"train": 6, "test": 2}.items()):
        pictures = [Image.fromarray(pixels) for pixels in random_pixels(count, 5, 6, 3, seed=seed)]
        columns = {"image": pictures, "label": [i % 2 for i in range(count)], "writer": list(range(count))}
        datasets.Dataset.from_dict(columns, features).to_parquet(tmp_path / f"{split}.parquet")
    return {split: str(tmp_path / f"{split}.parquet") for split in ("train", "test")}


def hub(files: dict[str, str], **settings: Any) -> HubSource:
    return HubSource("parquet", data_files=files, **settings)


def test_local_files_give_what_the_parquet_source_gives(files: dict[str, str]) -> None:
    one, other = hub(files).load(), ParquetSource(**files).load()
    assert one.class_names == other.class_names == ("ant", "bee")
    assert one.train.pixels.equal(other.train.pixels)
    assert one.test.labels.equal(other.test.labels)


def test_a_share_is_cut_off_where_there_is_no_test_split(files: dict[str, str]) -> None:
    loaded = hub({"train": files["train"]}, test_share=0.34).load()
    assert (len(loaded.train), len(loaded.test)) == (4, 2)
    assert loaded.test.labels.tolist() in ([0, 1], [1, 0])


@pytest.mark.parametrize("make", [hub, lambda files, **settings: ParquetSource(**files, **settings)])
def test_other_columns_are_kept_as_groups(make: Any, files: dict[str, str]) -> None:
    groups = make(files, group_columns=["writer", "label"]).load().train.groups
    assert groups["writer"].tolist() == [0, 1, 2, 3, 4, 5]
    assert groups["label"].tolist() == [0, 1, 0, 1, 0, 1]


def test_an_address_is_left_as_it_is(files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(path: str, *_: Any, data_files: Any, **__: Any) -> None:
        asked.append((path, data_files))
        raise OSError("no network")

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setenv("PLACE", "there")
    with refused("no network"):
        HubSource("parquet", data_files={"train": "hf://datasets/a/b/t.parquet", "test": "$PLACE//t.parquet"}).load()
    assert asked == [("parquet", {"train": "hf://datasets/a/b/t.parquet", "test": "there/t.parquet"})]


def test_a_missing_split_is_refused(files: dict[str, str]) -> None:
    with refused("parquet", "split 'validation' cannot be loaded", "test_split"):
        hub(files, test_split="validation").load()


def test_a_missing_column_is_refused(files: dict[str, str]) -> None:
    with refused("expected columns ['fine']", "got ['image', 'label', 'writer']", "label_column"):
        hub(files, label_column="fine").load()


def test_missing_files_are_refused(tmp_path: Path) -> None:
    with refused("init_args.path", "cannot be loaded", "data_files"):
        hub({"train": str(tmp_path / "no.parquet")}).load()


def test_several_parquet_files_are_one(files: dict[str, str], tmp_path: Path) -> None:
    both = ParquetSource(str(tmp_path / "t*.parquet"), files["test"]).load()
    assert len(both.train) == 8
    folder = tmp_path / "part-0" / "[v]"
    folder.mkdir(parents=True)
    for file in files.values():
        shutil.copy(file, folder)
    for pattern in ("part-*/[v]/t*.parquet", "p*/**/t*.parquet"):
        assert ParquetSource(str(tmp_path / pattern), files["test"]).load().train.pixels.equal(both.train.pixels)
    with refused("no-*.parquet", "does not exist", "init_args.train"):
        ParquetSource(str(tmp_path / "no-*.parquet"), files["test"]).load()
