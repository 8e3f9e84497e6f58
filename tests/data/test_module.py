import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mosaic.data import (
    DirichletPartition,
    FederatedDataModule,
    FlowerPartition,
    NaturalPartition,
    Partition,
    SklearnDigits,
    Source,
)
from mosaic.data.holdings import Holding
from mosaic.data.images import Images, ImageSet
from mosaic.data.module import OrderedBatches
from mosaic.nets import SmallCNN
from tests.cases import for_each
from tests.data.refusals import refused


class Coloured(Source):
    """Ten random colour images of three classes, and four to test on; counts how often it is asked."""

    loads = 0

    def load(self) -> ImageSet:
        self.loads += 1
        pixels = np.random.default_rng(0).integers(0, 256, (14, 4, 4, 3), dtype=np.uint8)
        whole = Images(torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.arange(14) % 3)
        return ImageSet(whole.at(torch.arange(10)), whole.at(torch.arange(10, 14)), ("a", "b", "c"))


class FirstHasAllButOne(Partition):
    def split(self, labels: np.ndarray, seed: int, groups: object) -> list[np.ndarray]:
        rest = [np.array([len(labels) - 1]), *[np.empty(0, dtype=np.int64)] * (self.num_clients - 2)]
        return [np.arange(len(labels) - 1), *rest]


def digits(clients: int = 6, seed: int = 0, share: float = 0.2) -> FederatedDataModule:
    return FederatedDataModule(SklearnDigits(), DirichletPartition(clients, alpha=0.3), seed, share)


def coloured(**settings: object) -> FederatedDataModule:
    return FederatedDataModule(Coloured(), FirstHasAllButOne(3), **settings)


def indices(data: FederatedDataModule) -> list[np.ndarray]:
    return [part.numpy() for i in range(data.num_clients) for part in (data.client(i).train, data.client(i).validation)]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_clients_and_their_validation_images_are_the_training_set_exactly_once(share: float) -> None:
    everything = np.concatenate(indices(digits(share=share)))
    assert np.array_equal(np.sort(everything), np.arange(1198))


def test_the_seed_decides_who_holds_and_validates_what() -> None:
    one, same, other = (indices(digits(seed=seed)) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_clients_with_equal_images_hold_out_different_ones() -> None:
    class Alike(Partition):
        def split(self, labels: np.ndarray, seed: int, groups: object) -> list[np.ndarray]:
            return [np.arange(100)] * self.num_clients

    data = FederatedDataModule(SklearnDigits(), Alike(2), validation_share=0.3)
    assert not torch.equal(data.client(0).validation, data.client(1).validation)


def test_counts_are_of_training_images_only() -> None:
    data = digits()
    labels = data.images.train.labels
    assert data.class_counts.shape == (6, 10)
    for client in range(6):
        own = data.client(client)
        counted = [int((labels[own.train] == label).sum()) for label in range(10)]
        assert own.class_counts.tolist() == counted == data.class_counts[client].tolist()


def test_a_client_may_hold_one_image_or_none() -> None:
    data = coloured(validation_share=0.5)
    assert data.class_counts.sum(1).tolist()[1:] == [1, 0]
    assert data.client(1).train.tolist() == [9]
    assert [len(part) for part in indices(data)[2:]] == [1, 0, 0, 0]
    assert data.class_counts[2].tolist() == [0, 0, 0]


def test_clients_look_at_the_common_images_without_a_copy() -> None:
    data = digits()
    assert data.client(0).images.pixels.data_ptr() == data.client(3).images.pixels.data_ptr()


def test_the_source_is_asked_once_and_not_before_it_is_needed() -> None:
    data = FederatedDataModule(Coloured(), FirstHasAllButOne(2))
    assert data.source.loads == 0
    data.setup("fit")
    data.client(0), data.class_counts, data.test_dataloader()
    assert data.source.loads == 1


def test_a_partition_of_ones_own_may_change_what_it_is_given() -> None:
    class Careless(FirstHasAllButOne):
        def split(self, labels: np.ndarray, seed: int, groups: object) -> list[np.ndarray]:
            labels[:] = 0
            return super().split(labels, seed, groups)

    data, untouched = (FederatedDataModule(Coloured(), partition(2)) for partition in (Careless, FirstHasAllButOne))
    assert len(data.splits) == 2
    assert torch.equal(data.images.train.labels, untouched.images.train.labels)


def test_setup_brings_impossible_requests_to_light() -> None:
    with refused("at least 10 images", "got 1198"):
        digits(clients=500).setup("fit")


def test_setup_refuses_a_client_without_images() -> None:
    with refused(
        "data.partition (FirstHasAllButOne)", "got none at client 2", "1 of 3", "lower the number", "min_images"
    ):
        coloured().setup("fit")


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([[0, 1, 2], [2, 3]], "got image 2 2 times (1 such images)"),
        ([[0, 1], [9, 10]], "expected indices in 0..9"),
        ([[-1, 1], [2]], "got -1..2"),
    ],
    ids=["two owners", "beyond the end", "negative"],
)
def test_setup_refuses_indices_that_cannot_be(parts: list[list[int]], said: str) -> None:
    class Wrong(Partition):
        def deal(self, *_: object) -> list[Holding]:
            return [Holding(np.array(part), np.empty(0, dtype=np.int64)) for part in parts]

        def split(self, labels: np.ndarray, seed: int, groups: object) -> list[np.ndarray]:
            raise NotImplementedError

    with refused("data.partition (Wrong)", said):
        FederatedDataModule(Coloured(), Wrong(2)).setup("fit")


def test_the_number_of_clients_may_come_from_the_data() -> None:
    class ByClass(FirstHasAllButOne):
        def split(self, labels: np.ndarray, seed: int, groups: object) -> list[np.ndarray]:
            return [np.flatnonzero(labels == label) for label in np.unique(labels)]

    data = FederatedDataModule(Coloured(), ByClass(None))
    assert data.num_clients == 3
    assert data.class_counts.shape == (3, 3)


def test_the_test_split_is_untouched_by_partition_and_seed() -> None:
    plain = SklearnDigits().load().test
    for data in (digits(), digits(clients=3, seed=5, share=0.0)):
        data.setup("test")
        images, labels = (torch.cat(parts) for parts in zip(*data.test_dataloader(), strict=True))
        assert torch.equal(images, plain.pixels)
        assert torch.equal(labels, plain.labels)


@for_each("share", [-0.1, 1.0, 1.5, float("nan")])
def test_a_validation_share_beyond_zero_to_one_is_refused(share: float) -> None:
    with refused("data.validation_share", "expected a value in [0, 1)", f"got {share}"):
        coloured(validation_share=share)


@pytest.mark.parametrize("batch_size", [1, 0, -5])
def test_a_batch_too_small_for_batch_norm_is_refused(batch_size: int) -> None:
    with refused("data.batch_size", "expected at least 2 images", "no variance", f"got {batch_size}"):
        coloured(batch_size=batch_size)


def test_the_blueprint_normalises_with_the_statistics_of_the_training_images() -> None:
    data = coloured()
    blueprint = data.blueprint(partial(SmallCNN, width=2))
    pixels = data.images.train.pixels.double().numpy() / 255
    assert blueprint.mean == pytest.approx(pixels.mean((0, 2, 3)))
    assert blueprint.std == pytest.approx(pixels.std((0, 2, 3)))
    assert (blueprint.image_shape, blueprint.num_classes) == ((3, 4, 4), 3)


def test_given_statistics_are_taken_over_and_the_other_is_measured() -> None:
    data = coloured(mean=[0.1, 0.2, 0.3])
    blueprint = data.blueprint(partial(SmallCNN, width=2))
    assert blueprint.mean == (0.1, 0.2, 0.3)
    assert blueprint.std == coloured().blueprint(partial(SmallCNN, width=2)).std


@for_each("key", ["mean", "std"])
@for_each("given", [[0.5], [], [0.5] * 4])
def test_statistics_of_another_number_of_channels_are_refused(key: str, given: list[float]) -> None:
    with refused(f"data.{key}", "expected 3 numbers, one per channel", f"got {len(given)}"):
        coloured(**{key: given}).blueprint(partial(SmallCNN, width=2))


def test_loaders_show_all_validation_and_all_test_images() -> None:
    data = digits()
    held = torch.cat([data.client(i).validation for i in range(6)])
    shown = torch.cat([pixels for pixels, _ in data.val_dataloader()])
    assert torch.equal(shown, data.images.train.pixels[held])
    for loader in (data.test_dataloader(), data.predict_dataloader()):
        assert torch.equal(torch.cat([pixels for pixels, _ in loader]), data.images.test.pixels)
        assert torch.equal(torch.cat([labels for _, labels in loader]), data.images.test.labels)


def test_the_written_partition_says_who_holds_what(tmp_path: Path) -> None:
    data = digits(seed=4)
    data.write_partition(tmp_path / "partition.json")
    written = json.loads((tmp_path / "partition.json").read_text())
    assert written["seed"] == 4
    for i, client in enumerate(written["clients"]):
        assert client == {"train": data.client(i).train.tolist(), "validation": data.client(i).validation.tolist()}


@for_each(("count", "batch_size"), [(10, 3), (10, 5), (9, 100), (1, 4), (0, 4)])
def test_ordered_batches_show_each_image_once_and_in_order(count: int, batch_size: int) -> None:
    images = Coloured().load().train
    order = np.random.default_rng(0).permutation(10)[:count]
    batches = OrderedBatches(images, order, batch_size)
    shown = list(batches)
    assert len(shown) == len(batches) == -(-count // batch_size)
    assert all(1 <= len(labels) <= batch_size for _, labels in shown)
    whole = [(image, label) for pixels, labels in shown for image, label in zip(pixels, labels.tolist(), strict=True)]
    assert len(whole) == count
    for (image, label), index in zip(whole, order, strict=True):
        assert torch.equal(image, images.pixels[index])
        assert label == index % 3


def test_ordered_batches_can_be_walked_again() -> None:
    batches = OrderedBatches(Coloured().load().train, range(10), 4)
    assert [labels.tolist() for _, labels in batches] == [labels.tolist() for _, labels in batches] != []


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_the_images_and_none_is_padded(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = Coloured().load().train
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: ranks)
    shown = []
    for rank in range(ranks):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        shown += [pixels for pixels, _ in OrderedBatches(images, range(10), 4)]
    seen = torch.cat(shown).flatten(1).tolist()
    assert sorted(seen) == sorted(images.pixels.flatten(1).tolist())


@for_each(
    "key, given",
    [("mean", [127.0]), ("mean", [-0.1]), ("std", [0.0]), ("std", [-1.0]), ("std", [64.0]), ("std", [float("nan")])],
)
def test_statistics_that_pixels_cannot_have_are_refused(key: str, given: list[float]) -> None:
    with refused(f"data.{key}", "as pixels are in [0, 1]", "divide those of bytes by 255"):
        coloured(**{key: given * 3})


def test_nothing_to_validate_on_is_said() -> None:
    with refused("data.validation_share", "expected images to validate on, got none"):
        digits(share=0.0).val_dataloader()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: FederatedDataModule(SklearnDigits, DirichletPartition(3, 1.0)),
            "data.source: expected Source, got the",
        ),
        (lambda: FlowerPartition(3, None), "data.partition.partitioner: expected str, got NoneType"),
        (lambda: NaturalPartition(["writer"]), "data.partition.key: expected str, got list"),
    ],
    ids=["source", "partitioner", "key"],
)
def test_what_is_of_another_kind_is_refused_at_once(make: Callable[[], Any], said: str) -> None:
    with refused(said):
        make()
