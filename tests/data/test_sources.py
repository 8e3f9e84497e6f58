import io
import os
import struct
from pathlib import Path
from typing import Any
from urllib.error import URLError

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torchvision.datasets
from PIL import Image
from sklearn.datasets import load_digits

from mosaic.data import NpzSource, ParquetSource, SklearnDigits, TorchvisionSource
from tests.data.refusals import refused
from tests.data.sources.made import random_pixels

DATA = os.environ.get("MOSAIC_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="MOSAIC_DATA names no folder with real image sets")


# digits


def test_digits_are_all_of_scikit_learns_each_in_one_split() -> None:
    digits = SklearnDigits().load()
    assert (len(digits.train), len(digits.test)) == (1198, 599)
    pixels, labels = load_digits(return_X_y=True)
    expected = sorted((tuple(image), label) for image, label in zip(pixels.astype(int).tolist(), labels, strict=True))
    loaded = [
        (tuple(round(level * 16 / 255) for level in image.flatten().tolist()), label)
        for part in (digits.train, digits.test)
        for image, label in zip(part.pixels, part.labels.tolist(), strict=True)
    ]
    assert sorted(loaded) == expected


def test_the_split_of_the_digits_is_stratified_and_always_the_same() -> None:
    one, other = SklearnDigits().load(), SklearnDigits().load()
    assert one.train.pixels.equal(other.train.pixels)
    share = one.test.labels.bincount() / (one.train.labels.bincount() + one.test.labels.bincount())
    assert ((share - 1 / 3).abs() < 0.005).all()


def test_digits_use_the_whole_range_of_grey() -> None:
    pixels = SklearnDigits().load().train.pixels
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert len(pixels.unique()) == 17


# npz


def arrays(**changes: Any) -> dict[str, Any]:
    made = {
        "train_images": random_pixels(6, 4, 4),
        "train_labels": np.arange(6) % 3,
        "test_images": random_pixels(3, 4, 4, seed=1),
        "test_labels": np.arange(3),
    }
    return {key: value for key, value in {**made, **changes}.items() if value is not None}


def npz(folder: Path, **changes: Any) -> NpzSource:
    path = folder / "images.npz"
    np.savez(path, **arrays(**changes))
    return NpzSource(str(path))


def test_an_npz_file_gives_its_arrays(tmp_path: Path) -> None:
    made, loaded = arrays(), npz(tmp_path, class_names=np.array(["ant", "bee", "cat"])).load()
    assert loaded.class_names == ("ant", "bee", "cat")
    for part, name in ((loaded.train, "train"), (loaded.test, "test")):
        assert np.array_equal(part.pixels[:, 0].numpy(), made[f"{name}_images"])
        assert np.array_equal(part.labels.numpy(), made[f"{name}_labels"])


def test_classes_of_an_npz_file_without_names_are_numbered(tmp_path: Path) -> None:
    assert npz(tmp_path).load().class_names == ("0", "1", "2")


def test_a_path_may_start_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npz(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(NpzSource("~/images.npz").load().train) == 6


def test_a_path_may_name_an_environment_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npz(tmp_path)
    monkeypatch.setenv("MOSAIC_TEST_FOLDER", str(tmp_path))
    assert len(NpzSource("$MOSAIC_TEST_FOLDER/images.npz").load().train) == 6
    monkeypatch.delenv("MOSAIC_TEST_FOLDER")
    with refused("$MOSAIC_TEST_FOLDER/images.npz", "does not exist (an environment variable in it is not set)"):
        NpzSource("$MOSAIC_TEST_FOLDER/images.npz").load()


def test_a_missing_npz_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "no.npz"
    with refused(str(path), "does not exist", "put the file there", "--data.source.init_args.path"):
        NpzSource(str(path)).load()


def test_a_truncated_npz_file_is_refused(tmp_path: Path) -> None:
    path = Path(npz(tmp_path).path)
    path.write_bytes(path.read_bytes()[:-100])
    with refused(str(path), "cannot be read", "fetch the file again"):
        NpzSource(str(path)).load()


@pytest.mark.parametrize("content", [b"", b"<html>\nnot found\n</html>", b"PK\x03\x04 and then nothing"])
def test_a_foreign_file_in_place_of_an_npz_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "foreign.npz"
    path.write_bytes(content)
    with refused(str(path), "cannot be read", "fetch the file again"):
        NpzSource(str(path)).load()


def test_a_single_array_in_place_of_an_npz_file_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", random_pixels(2, 4, 4))
    with refused("one.npy", "cannot be read", "fetch the file again"):
        NpzSource(str(tmp_path / "one.npy")).load()


class Bomb:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("exploded"),)


def test_pickled_objects_in_an_npz_file_are_refused_and_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = npz(tmp_path, class_names=np.array([Bomb()], dtype=object))
    with refused("images.npz", "cannot be read", "allow_pickle=False"):
        source.load()
    assert not Path("exploded").exists()


@pytest.mark.parametrize("key", ["train_images", "train_labels", "test_images", "test_labels"])
def test_an_npz_file_with_a_missing_key_is_refused(key: str, tmp_path: Path) -> None:
    source = npz(tmp_path, **{key: None}, extra=np.zeros(1))
    with refused(source.path, "expected the keys", "got ['extra'", f"['{key}'] are missing"):
        source.load()


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"train_images": np.zeros((6, 4, 4))}, ["expected uint8", "got float64", "convert"]),
        (
            {"test_labels": np.array([0, 1, 3])},
            ["expected test images of classes that are trained on", "got labels 3", "leave these images out"],
        ),
        ({"train_labels": np.arange(6) - 1}, ["expected labels of 0 and above", "got -1", "number the classes"]),
        ({"train_labels": np.arange(5)}, ["each of 6 images", "got 5 labels", "store one"]),
        ({"test_images": random_pixels(3, 5, 5)}, ["one image shape", "(1, 5, 5) for test", "resize"]),
        ({"class_names": np.array(["ant", "bee"])}, ["in 0..1 (2 classes)", "got 0..2", "name each"]),
        ({"train_images": random_pixels(0, 4, 4), "train_labels": np.arange(0)}, ["at least one image", "got none"]),
    ],
)
def test_an_npz_file_with_unfit_arrays_is_refused_by_name(
    changes: dict[str, Any], parts: list[str], tmp_path: Path
) -> None:
    source = npz(tmp_path, **changes)
    with refused(source.path, *parts):
        source.load()


# parquet


def encoded(image: np.ndarray) -> dict[str, Any]:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return {"bytes": file.getvalue(), "path": None}


def parquet(folder: Path, name: str = "table", **columns: list[Any]) -> str:
    path = folder / f"{name}.parquet"
    made = {"image": [encoded(image) for image in random_pixels(4, 5, 6, 3)], "label": [0, 1, 2, 1]}
    pyarrow.parquet.write_table(pyarrow.table({**made, **columns}), path)
    return str(path)


def both(path: str, **names: str) -> ParquetSource:
    return ParquetSource(path, path, **names)


@pytest.mark.parametrize("shape", [(5, 6, 3), (5, 6)])
def test_a_parquet_file_of_the_hub_gives_its_images_and_class_names(shape: tuple[int, ...], tmp_path: Path) -> None:
    pixels, labels = random_pixels(4, *shape), [0, 2, 2, 0]
    features = datasets.Features(img=datasets.Image(), fine=datasets.ClassLabel(names=["ant", "bee", "cat"]))
    table = datasets.Dataset.from_dict({"img": [Image.fromarray(p) for p in pixels], "fine": labels}, features)
    table.to_parquet(tmp_path / "train.parquet")
    table.select([1]).to_parquet(tmp_path / "test.parquet")
    paths = [str(tmp_path / f"{split}.parquet") for split in ("train", "test")]
    loaded = ParquetSource(*paths, image_column="img", label_column="fine").load()
    assert loaded.class_names == ("ant", "bee", "cat")
    channels_last = loaded.train.pixels.permute(0, 2, 3, 1).numpy()
    assert np.array_equal(channels_last.reshape(pixels.shape), pixels)
    assert loaded.train.labels.tolist() == labels
    assert loaded.test.pixels.equal(loaded.train.pixels[1:2])
    assert loaded.test.labels.tolist() == [2]


def test_classes_of_a_plain_parquet_file_are_numbered(tmp_path: Path) -> None:
    loaded = both(parquet(tmp_path)).load()
    assert loaded.class_names == ("0", "1", "2")
    assert np.array_equal(loaded.train.pixels.permute(0, 2, 3, 1).numpy(), random_pixels(4, 5, 6, 3))


@pytest.mark.parametrize("missing", ["train", "test"])
def test_a_missing_parquet_file_is_refused_by_its_key(missing: str, tmp_path: Path) -> None:
    paths = {split: parquet(tmp_path) for split in ("train", "test")} | {missing: str(tmp_path / "no.parquet")}
    with refused(paths[missing], "does not exist", "put the file there", f"--data.source.init_args.{missing}"):
        ParquetSource(**paths).load()


@pytest.mark.parametrize("content", [b"", b"<html>\nnot found\n</html>", b"PAR1 and then nothing PAR1"])
def test_a_foreign_file_in_place_of_a_parquet_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "foreign.parquet"
    path.write_bytes(content)
    with refused(str(path), "cannot be read", "fetch the file again"):
        both(str(path)).load()


def test_a_truncated_parquet_file_is_refused(tmp_path: Path) -> None:
    path = Path(parquet(tmp_path))
    path.write_bytes(path.read_bytes()[:-50])
    with refused(str(path), "cannot be read", "fetch the file again"):
        both(str(path)).load()


@pytest.mark.parametrize("names", [{"image_column": "img"}, {"label_column": "fine"}])
def test_a_parquet_file_with_a_missing_column_is_refused(names: dict[str, str], tmp_path: Path) -> None:
    path = parquet(tmp_path)
    wanted = repr(next(iter(names.values())))
    with refused(path, "expected columns", wanted, "got ['image', 'label']", "image_column and label_column"):
        both(path, **names).load()


@pytest.mark.parametrize(
    "cell",
    [{"bytes": b"not an image", "path": None}, {"bytes": None, "path": "cat.png"}, {"file": b"x"}, b"x", None],
)
def test_cells_that_hold_no_image_are_refused(cell: Any, tmp_path: Path) -> None:
    path = parquet(tmp_path, image=[cell] * 4)
    with refused(path, '{"bytes", "path"}', "'image'", "cannot be decoded", "image_column"):
        both(path).load()


def test_a_truncated_image_is_refused(tmp_path: Path) -> None:
    whole = encoded(random_pixels(20, 20, 3))
    path = parquet(tmp_path, image=[whole, whole, whole, {**whole, "bytes": whole["bytes"][:-400]}])
    with refused(path, "cannot be decoded", "fetch the file again"):
        both(path).load()


def test_images_of_several_sizes_are_refused_without_a_rule(tmp_path: Path) -> None:
    cells = [encoded(random_pixels(*shape)) for shape in [(5, 6, 3), (5, 6, 3), (6, 5, 3), (5, 6)]]
    path = parquet(tmp_path, image=cells)
    with refused(path, "one size", "row 2 of 6 x 5 after 5 x 6", "data.source.init_args.resize"):
        both(path).load()


def test_a_parquet_file_without_rows_is_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path, image=[], label=[])
    with refused(path, "at least one image", "got none", "init_args.train"):
        both(path).load()


@pytest.mark.parametrize(
    ("labels", "parts"),
    [
        ([0.0, 1.0, 2.0, 1.0], ["one integer label", "of type float64", "store one"]),
        (["ant", "bee", "cat", "bee"], ["one integer label", "of type object", "store one"]),
        ([0, 1, None, 1], ["a value in each row of column 'label'", "got none in 1 of 4", "leave these rows out"]),
        ([-1, 0, 1, 2], ["expected labels of 0 and above", "got -1", "number the classes"]),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels: list[Any], parts: list[str], tmp_path: Path) -> None:
    path = parquet(tmp_path, label=labels)
    with refused(path, *parts):
        both(path).load()


# torchvision


def write_mnist(root: Path) -> dict[str, np.ndarray]:
    """Write files in the layout of MNIST's authors: a magic number, the sizes, the bytes."""
    made = {}
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for split, prefix, count in (("train", "train", 5), ("test", "t10k", 3)):
        made[split], labels = random_pixels(count, 28, 28, seed=count), np.arange(count, dtype=np.uint8)
        images = struct.pack(">4i", 0x803, count, 28, 28) + made[split].tobytes()
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(images)
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, count) + labels.tobytes())
    return made


def test_torchvision_reads_files_that_are_there(tmp_path: Path) -> None:
    made, loaded = write_mnist(tmp_path), TorchvisionSource("MNIST", str(tmp_path)).load()
    assert loaded.num_classes == 10
    assert loaded.train.shape == (1, 28, 28)
    assert np.array_equal(loaded.train.pixels[:, 0].numpy(), made["train"])
    assert np.array_equal(loaded.test.pixels[:, 0].numpy(), made["test"])
    assert loaded.train.labels.tolist() == [0, 1, 2, 3, 4]


class InMemory:
    """As CIFAR10 keeps its images: an array, a list, and class names; USPS has no class names."""

    def __init__(self, root: str, train: bool, download: bool) -> None:
        self.data, self.targets = random_pixels(4, 8, 8, 3), [3, 1, 0, 2]


def test_classes_that_torchvision_does_not_name_are_numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets, "InMemory", InMemory, raising=False)
    loaded = TorchvisionSource("InMemory").load()
    assert loaded.class_names == ("0", "1", "2", "3")
    assert np.array_equal(loaded.test.pixels.permute(0, 2, 3, 1).numpy(), random_pixels(4, 8, 8, 3))


def test_a_class_that_torchvision_does_not_have_is_refused() -> None:
    with refused("torchvision.datasets has no class 'CIFAR11'", "check data.source.init_args.name"):
        TorchvisionSource("CIFAR11").load()


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "CIFAR10", "CIFAR100", "USPS", "SVHN", "Food101"])
def test_files_that_torchvision_does_not_find_are_refused(name: str, tmp_path: Path) -> None:
    with refused(f"{name} was not found under {tmp_path}", "put the files there", "init_args.download true", "network"):
        TorchvisionSource(name, str(tmp_path)).load()


def test_the_folder_that_was_looked_at_is_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with refused(f"under {tmp_path}/images ("):
        TorchvisionSource("CIFAR10", "~/images").load()


def test_a_download_that_fails_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(**_: Any) -> None:
        raise URLError("Temporary failure in name resolution\nand more of it")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", no_network)
    with refused("CIFAR10 was not found", "Temporary failure in name resolution", "put the files there"):
        TorchvisionSource("CIFAR10", download=True).load()


@pytest.mark.parametrize(
    ("name", "reason"),
    [("FakeData", "does not take root"), ("utils", "is not a class"), ("EMNIST", "argument: 'split'")],
)
def test_torchvision_classes_of_another_kind_are_refused(name: str, reason: str, tmp_path: Path) -> None:
    with refused(f"torchvision.datasets.{name}", "root and train or split", reason, "init_args.arguments", "NpzSource"):
        TorchvisionSource(name, str(tmp_path)).load()


# real files


@needs_data
@pytest.mark.parametrize(
    ("name", "train", "test", "shape"),
    [
        ("mnist", 60000, 10000, (1, 28, 28)),
        ("fashion_mnist", 60000, 10000, (1, 28, 28)),
        ("usps", 7291, 2007, (1, 16, 16)),
        ("digits3_domains", 12000, 3000, (3, 28, 28)),
    ],
)
def test_real_npz_files_hold_what_they_say(name: str, train: int, test: int, shape: tuple[int, ...]) -> None:
    loaded = NpzSource(f"{DATA}/{name}.npz").load()
    assert (len(loaded.train), len(loaded.test)) == (train, test)
    assert loaded.train.shape == shape
    assert loaded.num_classes == 10
    assert (loaded.train.labels.bincount(minlength=10) > 0).all()


@needs_data
@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_the_first_rows_of_real_parquet_files_are_small_colour_images(name: str, classes: int, tmp_path: Path) -> None:
    for split in ("train", "test"):
        file = pyarrow.parquet.ParquetFile(f"{DATA}/{name}/{split}.parquet")
        rows = pyarrow.Table.from_batches([next(file.iter_batches(100))]).replace_schema_metadata(
            file.schema_arrow.metadata
        )
        pyarrow.parquet.write_table(rows, tmp_path / f"{split}.parquet")
    loaded = ParquetSource(str(tmp_path / "train.parquet"), str(tmp_path / "test.parquet")).load()
    assert loaded.train.shape == (3, 32, 32)
    assert loaded.num_classes == classes
    assert (len(loaded.train), len(loaded.test)) == (100, 100)
    assert loaded.train.pixels.float().std() > 40


def test_an_npz_file_may_hold_more_than_is_read(tmp_path: Path) -> None:
    nothing = {"val_images": np.zeros((0, 5, 6), np.uint8), "val_labels": np.zeros(0, np.int64)}
    source = npz(tmp_path, extra=np.array([None], dtype=object), **nothing)
    assert len(source.load().train) == len(arrays()["train_images"])


def test_labels_may_be_groups_too(tmp_path: Path) -> None:
    path = parquet(tmp_path)
    loaded = ParquetSource(path, path, group_columns=["label"]).load()
    assert loaded.train.groups["label"].tolist() == [0, 1, 2, 1]


@pytest.mark.parametrize("metadata", ["{}", '{"info": null}', '{"info": {"features": {"label": {"names": null}}}}'])
def test_metadata_of_the_hub_without_names_name_nothing(metadata: str, tmp_path: Path) -> None:
    path = parquet(tmp_path)
    table = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(table.replace_schema_metadata({"huggingface": metadata}), path)
    assert both(path).load().class_names == ("0", "1", "2")


def test_a_file_that_is_trained_on_and_tested_on_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A pattern is easily too wide."""
    image = encoded(random_pixels(4, 4, 3))
    for name in ("a", "b"):
        parquet(tmp_path, name, image=[image, image], label=[0, 1])
    ParquetSource(str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")).load()
    assert "tested on too" not in caplog.text
    ParquetSource(str(tmp_path / "*.parquet"), str(tmp_path / "b.parquet")).load()
    assert f"{tmp_path / 'b.parquet'}: is trained on and tested on too" in caplog.text
