import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mosaic.data import DirichletPartition, FederatedDataModule, NpzSource, ReplayPartition, SklearnDigits
from tests.data.refusals import refused


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "partition.json"
    FederatedDataModule(SklearnDigits(), DirichletPartition(5, 0.3), 3, 0.25).write_partition(path)
    return path


def replayed(path: Path, **settings: Any) -> FederatedDataModule:
    return FederatedDataModule(SklearnDigits(), ReplayPartition(str(path)), **settings)


def test_a_replay_is_exact_whatever_seed_and_share_are(saved: Path) -> None:
    original = FederatedDataModule(SklearnDigits(), DirichletPartition(5, 0.3), 3, 0.25)
    data = replayed(saved, seed=9, validation_share=0.5)
    data.setup("fit")
    assert data.num_clients == 5
    for ours, theirs in zip(data.splits, original.splits, strict=True):
        assert np.array_equal(ours.train, theirs.train)
        assert np.array_equal(ours.validation, theirs.validation)
        assert ours.train.dtype == ours.validation.dtype == np.int64


def test_a_path_may_start_at_home(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(saved.parent))
    assert ReplayPartition("~/partition.json").num_clients == ReplayPartition("$HOME/partition.json").num_clients == 5


def test_a_replay_of_a_replay_is_exact(saved: Path, tmp_path: Path) -> None:
    replayed(saved, seed=3).write_partition(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == saved.read_text()


def test_split_joins_training_and_validation_images(saved: Path) -> None:
    parts = ReplayPartition(str(saved)).split(SklearnDigits().load().train.labels.numpy(), 0, {})
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(1198))


def test_a_file_of_indices_alone_will_do(tmp_path: Path) -> None:
    clients = [{"train": [2, 0], "validation": []}, {"train": [1], "validation": [5]}]
    (tmp_path / "mine.json").write_text(json.dumps({"clients": clients}))
    data = replayed(tmp_path / "mine.json")
    data.setup("fit")
    assert [holding.train.tolist() for holding in data.splits] == [[0, 2], [1]]


def test_other_images_are_refused(saved: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        f"{split}_{what}": rng.integers(0, 10, shape).astype(kind)
        for split, n in (("train", 1198), ("test", 9))
        for what, shape, kind in (("images", (n, 8, 8), np.uint8), ("labels", n, np.int64))
    }
    np.savez(tmp_path / "other.npz", **arrays)
    data = FederatedDataModule(NpzSource(str(tmp_path / "other.npz")), ReplayPartition(str(saved)))
    with refused("data.partition.path", str(saved), "the 1198 training images", "labels differ", "new partition"):
        data.setup("fit")


BAD_CLIENTS = {
    "two owners": ([{"train": [0, 1], "validation": []}, {"train": [1], "validation": []}], "got image 1 2 times"),
    "two uses": ([{"train": [0, 1], "validation": [1]}], "got image 1 2 times"),
    "beyond": ([{"train": [0, 1198], "validation": []}], "expected indices in 0..1197"),
    "negative": ([{"train": [-1], "validation": []}], "got -1..-1"),
    "empty client": ([{"train": [0], "validation": []}, {"train": [], "validation": [4]}], "got none at client 1"),
    "no list": ([{"train": 4, "validation": []}], "clients[0]: expected 'train' to be a list"),
    "words": ([{"train": ["a"], "validation": []}], "clients[0]: expected 'train' to be a list"),
    "fractions": ([{"train": [0.5], "validation": []}], "clients[0]: expected 'train' to be a list"),
    "ragged": ([{"train": [[1], [2, 3]], "validation": []}], "clients[0]: expected 'train' to be a list"),
    "no validation": ([{"train": [0]}], "clients[0]: expected 'validation' to be a list"),
    "no clients": ([], "expected a list 'clients'"),
    "no entries": ({"a": 1}, "expected a list 'clients'"),
}


@pytest.mark.parametrize("name", BAD_CLIENTS)
def test_a_file_that_cannot_be_is_refused_by_name(name: str, tmp_path: Path) -> None:
    clients, said = BAD_CLIENTS[name]
    (tmp_path / "partition.json").write_text(json.dumps({"clients": clients}))
    with refused("data.partition.path", str(tmp_path / "partition.json"), said):
        replayed(tmp_path / "partition.json").setup("fit")


@pytest.mark.parametrize("text", [None, "", "{", "[]", "\x00"], ids=["missing", "empty", "cut short", "list", "bytes"])
def test_an_unreadable_file_is_refused_by_name(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "partition.json").write_text(text)
    with refused("data.partition.path", str(tmp_path / "partition.json"), "mosaic partition"):
        ReplayPartition(str(tmp_path / "partition.json"))
