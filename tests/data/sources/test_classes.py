"""Which class a label means: by name where files name classes, in order where nobody does."""

import logging
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from mosaic.data import ParquetSource
from mosaic.data.sources import classes
from mosaic.data.sources.classes import agreed, numbered
from tests.data.refusals import refused
from tests.data.test_sources import encoded, random_pixels

FEATURES = '{{"info": {{"features": {{"label": {{"names": {names}, "_type": "ClassLabel"}}}}}}}}'


def named_parquet(file: Path, names: list[str], labels: list[int], kind: str = "int64") -> str:
    """A file of the hub's kind, whose labels are positions in a list of names."""
    images = [encoded(image) for image in random_pixels(len(labels), 4, 4)]
    table = pyarrow.table({"image": images, "label": pyarrow.array(labels, kind)})
    told = FEATURES.format(names=str(names).replace("'", '"'))
    pyarrow.parquet.write_table(table.replace_schema_metadata({"huggingface": told}), file)
    return str(file)


def test_labels_are_taken_by_name_in_every_file(tmp_path: Path) -> None:
    named_parquet(tmp_path / "train-0.parquet", ["cat", "dog"], [0, 1])
    named_parquet(tmp_path / "train-1.parquet", ["dog", "cat"], [0, 0])
    test = named_parquet(tmp_path / "test.parquet", ["cow", "dog", "cat"], [1, 2, 2])
    loaded = ParquetSource(str(tmp_path / "train-*.parquet"), test).load()
    assert loaded.class_names == ("cat", "dog")
    assert loaded.train.labels.tolist() == [0, 1, 1, 1]
    assert loaded.test.labels.tolist() == [1, 0, 0]


def test_small_numbers_of_one_file_may_become_large_ones(tmp_path: Path) -> None:
    train = named_parquet(tmp_path / "train-0.parquet", [str(number) for number in range(200)], [0, 199])
    named_parquet(tmp_path / "train-1.parquet", ["199", "0"], [0, 1], kind="int8")
    loaded = ParquetSource(str(tmp_path / "train-*.parquet"), train).load()
    assert loaded.train.labels.tolist() == [0, 199, 199, 0]


def test_a_class_that_only_the_test_names_is_refused(tmp_path: Path) -> None:
    train = named_parquet(tmp_path / "train.parquet", ["cat", "dog"], [0, 1])
    test = named_parquet(tmp_path / "test.parquet", ["cow", "dog"], [0, 1])
    with refused(test, "only the classes cat, dog, got cow", "leave these images out"):
        ParquetSource(train, test).load()


@pytest.mark.parametrize(
    ("labels", "names", "parts"),
    [
        ([0, 1], ("a", "a"), ["a different name for every class", "'a' twice"]),
        ([0, 2], ("b", "a"), ["labels in 0..1 (2 classes)", "got 0..2"]),
        ([-1, 0], ("b", "a"), ["labels in 0..1", "got -1..0"]),
    ],
)
def test_names_that_settle_nothing_are_refused(labels: list[int], names: tuple[str, ...], parts: list[str]) -> None:
    with refused("test.parquet", *parts):
        agreed(np.array(labels), names, ("a", "b"), "test.parquet")


def test_names_in_the_same_order_or_of_one_side_change_nothing() -> None:
    labels = np.array([1, 0])
    for names, reference in ((None, ("a", "b")), (("a", "b"), None), (("a", "b"), ("a", "b"))):
        assert agreed(labels, names, reference, "file") is labels


def test_identifiers_are_numbered_and_the_log_has_the_table(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="mosaic"):
        train, test, names = numbered(np.array([10**9 + 1, 10**9, 10**9]), np.array([10**9 + 1]), "ids.npz")
    assert (train.tolist(), test.tolist(), names) == ([1, 0, 0], [1], ("1000000000", "1000000001"))
    assert "1000000000 is class 0, 1000000001 is class 1" in caplog.text
    caplog.clear()
    assert numbered(np.array([1, 0]), np.array([0]), "a.npz")[2] == ("0", "1")
    assert not caplog.text


def test_labels_that_are_no_classes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with refused("a.npz", "labels of 0 and above", "got -1"):
        numbered(np.array([-1, 0]), np.array([0]), "a.npz")
    with refused("a.npz", "classes that are trained on", "got labels 7"):
        numbered(np.array([0, 1]), np.array([7]), "a.npz")
    monkeypatch.setattr(classes, "MOST_CLASSES", 2)
    with refused("a.npz", "at most 2 classes", "got 3 different labels for 4 images", "identifiers"):
        numbered(np.array([0, 1, 2, 2]), np.array([0]), "a.npz")
