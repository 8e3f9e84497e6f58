import itertools
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from mosaic.cli.main import main
from mosaic.data import DirichletPartition, FederatedDataModule, NpzSource, PartSource, Source
from mosaic.data.images import Images, ImageSet
from mosaic.data.sources.part import proportional_sizes
from tests.cases import for_each
from tests.cli.test_main import refusal
from tests.data.refusals import refused
from tests.small_runs import DIGITS

COUNTS = (7, 40, 11, 120)


class Numbered(Source):
    """Images that carry their own number in two pixels, in random order of their classes.

    Args:
        train: training images of each class.
        test: test images of each class.
    """

    def __init__(self, train: tuple[int, ...] = COUNTS, test: tuple[int, ...] = (20, 10, 5, 5)) -> None:
        self.train, self.test = train, test

    def load(self) -> ImageSet:
        return ImageSet(numbered(self.train), numbered(self.test), tuple(f"class {i}" for i in range(len(self.train))))


def numbered(counts: tuple[int, ...]) -> Images:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    numbers = np.arange(len(labels))
    pixels = np.stack([numbers // 256, numbers % 256], -1).astype(np.uint8).reshape(-1, 1, 1, 2)
    groups = {"domains": numbers % 3, "writers": np.array([f"writer {number}" for number in numbers], dtype=object)}
    return Images(torch.from_numpy(pixels), torch.from_numpy(labels), groups)


def numbers_of(images: Images) -> np.ndarray:
    """Which images of the whole these are."""
    high, low = images.pixels.long().flatten(1).unbind(1)
    return (256 * high + low).numpy()


def counts_of(images: Images) -> np.ndarray:
    return images.labels.bincount(minlength=len(COUNTS)).numpy()


@for_each("total", [26, 50, 99, 177, 178])
@for_each("split", ["train", "test"])
def test_a_part_has_the_size_asked_for_and_every_class_its_share(split: str, total: int) -> None:
    counts = np.array(COUNTS)
    part = getattr(PartSource(Numbered(COUNTS, COUNTS), **{split: total}).load(), split)
    assert len(part) == len(part.pixels) == len(part.labels) == total
    assert (abs(counts_of(part) - total * counts / counts.sum()) < 1).all()


@for_each("seed", range(20))
def test_no_sizes_of_this_sum_are_nearer_to_the_shares(seed: int) -> None:
    counts = np.random.default_rng(seed).integers(0, 9, 4) + np.array([1, 0, 0, 0])
    for total in range(counts.sum() + 1):
        shares = total * counts / counts.sum()
        every = (sizes for sizes in itertools.product(*(range(count + 1) for count in counts)) if sum(sizes) == total)
        nearest = min(float(((shares - sizes) ** 2).sum()) for sizes in every)
        sizes = proportional_sizes(counts, total)
        assert sizes.sum() == total
        assert (sizes <= counts).all()
        assert ((shares - sizes) ** 2).sum() == pytest.approx(nearest)


def test_images_keep_order_labels_and_groups() -> None:
    whole, part = Numbered().load().train, PartSource(Numbered(), train=60).load().train
    numbers = numbers_of(part)
    assert (np.diff(numbers) > 0).all()
    assert part.labels.equal(whole.labels[numbers])
    assert part.groups.keys() == whole.groups.keys()
    assert all(np.array_equal(part.groups[key], whole.groups[key][numbers]) for key in whole.groups)


def test_one_seed_draws_one_part() -> None:
    one, again, other = (numbers_of(PartSource(Numbered(), train=60, seed=seed).load().train) for seed in (3, 3, 4))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_a_part_is_the_same_on_every_machine() -> None:
    part = PartSource(Numbered((3, 6), (3, 6)), train=6, test=6).load()
    assert numbers_of(part.train).tolist() == [2, 3, 4, 5, 6, 8]
    assert numbers_of(part.test).tolist() == [1, 2, 3, 4, 6, 8]


def test_training_and_test_images_are_drawn_apart() -> None:
    source = Numbered(COUNTS, COUNTS)
    both, alone = PartSource(source, train=60, test=60).load(), PartSource(source, train=60).load()
    assert np.array_equal(numbers_of(both.train), numbers_of(alone.train))
    assert not np.array_equal(numbers_of(both.train), numbers_of(both.test))


def test_a_split_without_a_size_is_kept_as_it_is() -> None:
    whole = Numbered().load()

    class Kept(Source):
        def load(self) -> ImageSet:
            return whole

    assert PartSource(Kept()).load() == whole
    assert PartSource(Kept(), train=60).load().test is whole.test
    assert PartSource(Kept(), test=20).load().train is whole.train


def test_all_images_are_a_part_too() -> None:
    part = PartSource(Numbered(), train=sum(COUNTS)).load().train
    assert numbers_of(part).tolist() == list(range(sum(COUNTS)))


def test_a_part_keeps_no_more_than_itself_in_memory() -> None:
    part = PartSource(Numbered(), train=60).load().train
    for tensor in (part.pixels, part.labels):
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    assert all(values.base is None for values in part.groups.values())


def test_a_part_of_a_part_is_a_part() -> None:
    part = PartSource(PartSource(Numbered(), train=100), train=50).load().train
    assert len(part) == 50
    assert (abs(counts_of(part) - 50 * np.array(COUNTS) / sum(COUNTS)) < 2).all()


def test_classes_that_never_occur_are_no_hindrance() -> None:
    part = PartSource(Numbered((5, 0, 5, 0)), train=2).load()
    assert counts_of(part.train).tolist() == [1, 0, 1, 0]
    assert part.num_classes == 4


def test_a_class_that_is_left_with_one_image_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """And one without any is told of once, though the whole had none either."""
    with caplog.at_level(logging.WARNING):
        _ = FederatedDataModule(PartSource(Numbered((7, 40, 0, 120)), train=26), DirichletPartition(1, 1)).images
    assert [record.message for record in caplog.records] == [
        "data.source (PartSource): 1 of 4 classes have no training image: class 2",
        "data.source (PartSource): 1 of 4 classes have one training image, so none of it can be held out: class 0",
    ]


@pytest.mark.parametrize(("split", "all_images"), [("train", 178), ("test", 40)])
def test_more_images_than_there_are_are_refused(split: str, all_images: int) -> None:
    key = f"data.source.init_args.{split}"
    with refused(f"{key}: expected at most {all_images}", f"got {all_images + 1}", "lower it", "leave it out"):
        PartSource(Numbered(), **{split: all_images + 1}).load()


@pytest.mark.parametrize("total", [-5, 0, 3])
def test_fewer_images_than_classes_are_refused(total: int) -> None:
    with refused("init_args.train: expected", "each of the 4 classes", f"got {total} images", "raise it"):
        PartSource(Numbered(), train=total).load()


def test_a_class_that_would_vanish_is_refused_and_the_size_named_suffices() -> None:
    with refused("got 12 images", "none of class class 0, which has 7 of 178", "26 are enough", "leave it out"):
        PartSource(Numbered(), train=12).load()
    assert (counts_of(PartSource(Numbered(), train=26).load().train) > 0).all()


def test_a_negative_seed_is_refused() -> None:
    with refused("data.source.init_args.seed: expected 0 or more, got -1"):
        PartSource(Numbered(), seed=-1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seed": 0.5}, "seed: expected a whole number, got 0.5"),
        ({"seed": None}, "seed: expected 0 or more, got None"),
        ({"train": 100.5}, "train: expected a whole number, got 100.5"),
        ({"test": "9"}, "test: expected a whole number, got '9'"),
        ({"source": Numbered}, "source: expected Source, got the class Numbered"),
    ],
)
def test_arguments_of_other_kinds_are_refused(given: dict[str, Any], said: str) -> None:
    with refused(f"data.source.init_args.{said}"):
        PartSource(**{"source": Numbered(), **given})


def test_what_the_source_refuses_is_named_by_its_place_in_the_configuration() -> None:
    with refused("none.npz does not exist", "--data.source.init_args.source.init_args.path"):
        PartSource(NpzSource("none.npz"), train=1).load()
    with refused("data.source.init_args.source.init_args.train: expected at most 178", "got 179"):
        PartSource(PartSource(Numbered(), train=179), train=10).load()


# command line


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    """A configuration of 150 of 300 random images, whose file stands in a folder that the environment names."""
    random = np.random.default_rng(0)
    images = {f"{split}_images": random.integers(0, 256, (300, 8, 8), dtype=np.uint8) for split in ("train", "test")}
    np.savez(tmp_path / "images.npz", **images, train_labels=np.arange(300) % 10, test_labels=np.arange(300) % 10)
    inner = {"class_path": "mosaic.data.NpzSource", "init_args": {"path": "${MOSAIC_TEST_FOLDER}/images.npz"}}
    source = {"class_path": "mosaic.data.PartSource", "init_args": {"source": inner, "train": 150}}
    path = tmp_path / "part.yaml"
    path.write_text(yaml.safe_dump({"data": {"source": source}}))
    return path


def test_a_part_is_named_in_yaml_and_its_keys_are_flags(overlay: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--data.source.init_args.train=120", "--data.source.init_args.source.init_args.validation=leave_out"]
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(DIGITS), "--config", str(overlay), *flags, "--print_config"])
    source = yaml.safe_load(capsys.readouterr().out)["data"]["source"]
    assert source["class_path"] == "mosaic.data.PartSource"
    given = {key: source["init_args"][key] for key in ("train", "test", "seed")}
    assert given == {"train": 120, "test": None, "seed": 0}
    inner = source["init_args"]["source"]
    assert inner["class_path"] == "mosaic.data.NpzSource"
    assert inner["init_args"]["path"] == "${MOSAIC_TEST_FOLDER}/images.npz"
    assert inner["init_args"]["validation"] == "leave_out"


def test_a_part_is_dealt_to_clients(overlay: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOSAIC_TEST_FOLDER", str(tmp_path))
    main(["partition", "--config", str(DIGITS), "--config", str(overlay), "--output", str(tmp_path / "out")])
    saved = json.loads((tmp_path / "out" / "partition.json").read_text())
    assert saved["images"] == 150
    held = [index for client in saved["clients"] for index in client["train"] + client["validation"]]
    assert sorted(held) == list(range(150))


def test_a_bad_part_gets_one_line(
    overlay: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MOSAIC_TEST_FOLDER", str(tmp_path))
    flags = ["--config", str(DIGITS), "--config", str(overlay), "--data.source.init_args.train=301"]
    line = refusal(capsys, "partition", *flags, "--output", str(tmp_path / "out"))
    assert "data.source.init_args.train: expected at most 300" in line


# real files


@pytest.mark.skipif("MOSAIC_DATA" not in os.environ, reason="MOSAIC_DATA names no folder with real image sets")
def test_a_part_of_mnist_is_mnist_in_small() -> None:
    source = NpzSource(str(Path(os.environ["MOSAIC_DATA"]) / "mnist.npz"))
    whole, part = source.load(), PartSource(source, train=10_000).load()
    assert part.train.pixels.shape == (10_000, 1, 28, 28)
    counts, kept = (images.labels.bincount(minlength=10) for images in (whole.train, part.train))
    assert ((kept - counts / 6).abs() < 1).all()
    assert part.test.pixels.equal(whole.test.pixels)
    assert part.class_names == whole.class_names
