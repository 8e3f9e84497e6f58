"""What a user's own source and partition may return, and what is said of the usual slips."""

import logging
from typing import Any

import numpy as np
import pytest
import torch

from mosaic.data import FederatedDataModule, Images, ImageSet, Partition, Source
from mosaic.data.checks import as_tensor
from mosaic.data.partitions.base import Groups
from tests.data.refusals import refused

LABELS = torch.arange(12) % 3
PIXELS = torch.randint(0, 256, (12, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
NAMES = ("a", "b", "c")


class Mine(Source):
    """Gives back what the test says."""

    def __init__(self, loaded: Any) -> None:
        self.loaded = loaded

    def load(self) -> ImageSet:
        return self.loaded  # type: ignore[no-any-return]


class Deal(Partition):
    """Deals as the test says."""

    def __init__(self, parts: Any, num_clients: int | None = 3) -> None:
        super().__init__(num_clients)
        self.parts = parts

    def split(self, labels: np.ndarray, seed: int, groups: Groups) -> list[np.ndarray]:
        return self.parts  # type: ignore[no-any-return]


def loaded(pixels: Any = PIXELS, labels: Any = LABELS, names: Any = NAMES, **groups: Any) -> ImageSet:
    images = Images(pixels, labels, groups)
    return FederatedDataModule(Mine(ImageSet(images, images, names)), Deal([])).images


def test_groups_of_any_kind_are_arrays() -> None:
    assert type(loaded(domain=["a"] * len(LABELS)).train.groups["domain"]) is np.ndarray


@pytest.mark.parametrize(
    "pixels",
    [PIXELS, PIXELS.float() / 255, PIXELS.double().numpy() / 255, PIXELS.long(), PIXELS.to(torch.uint16)],
    ids=["uint8", "float32", "float64 array", "int64", "uint16"],
)
def test_pixels_are_the_same_in_every_form(pixels: Any) -> None:
    assert torch.equal(loaded(pixels).train.pixels, PIXELS)


@pytest.mark.parametrize("labels", [LABELS.int(), LABELS.numpy(), LABELS.to(torch.uint8)])
def test_labels_are_the_same_in_every_form(labels: Any) -> None:
    assert torch.equal(loaded(labels=labels).test.labels, LABELS)


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"pixels": PIXELS.float()}, ["as uint8, or as floating point in [0, 1]", "got torch.float32 in [0, 254]"]),
        ({"pixels": PIXELS.float() / 0}, ["floating point in [0, 1]"]),
        ({"pixels": PIXELS.float() / 127.5 - 1}, ["floating point in [0, 1]", "normalisation to the network"]),
        ({"pixels": PIXELS.long() + 2}, ["got torch.int64 in"]),
        ({"pixels": PIXELS > 3}, ["got torch.bool"]),
        ({"pixels": PIXELS[:, 0]}, ["shape (N, channels, H, W), got shape (12, 4, 4)"]),
        ({"pixels": PIXELS.permute(0, 2, 3, 1)}, ["1 or 3 channels, got (12, 4, 4, 1)", "put the channels second"]),
        ({"pixels": PIXELS.tolist()}, ["as a tensor", "got list"]),
        ({"labels": LABELS[:5]}, ["one integer label for each of 12 images", "got 5"]),
        ({"labels": LABELS.float()}, ["one integer label", "float32"]),
        ({"labels": LABELS + 1}, ["expected training labels in 0..2", "got 1..3"]),
        ({"labels": LABELS[:, None]}, ["shape (N,), got shape (12, 1)"]),
        ({"names": "abc"}, ["class names as a tuple of strings", "got 'abc'"]),
        ({"names": (0, 1, 2)}, ["class names as a tuple of strings"]),
        ({"names": None}, ["class names as a tuple of strings", "got None"]),
        ({"names": ("a", "b", "caf\udce9")}, ["that UTF-8 can write", "rename it"]),
        ({"pixels": (PIXELS > 100).long()}, ["torch.int64 of 0 and 1 alone", "multiply them by 255"]),
        ({"pixels": PIXELS > 100}, ["torch.bool of 0 and 1 alone", "multiply them by 255"]),
        ({"pixels": PIXELS > 255}, ["torch.bool of 0 and 1 alone"]),
        ({"pixels": (PIXELS / 255).to(torch.float8_e4m3fn)}, ["got torch.float8_e4m3fn", "convert them first"]),
        (
            {"pixels": PIXELS.to(torch.complex64)},
            ["got torch.complex64 as strided tensor: convert them first"],
        ),
        ({"pixels": PIXELS.float().to_sparse()}, ["floating point in [0, 1], got torch.float32 as sparse_coo tensor"]),
        ({"labels": LABELS.bfloat16()}, ["one integer label for each image, got torch.bfloat16"]),
        ({"labels": LABELS.to_sparse()}, ["one integer label for each image, got torch.int64 as sparse_coo tensor"]),
        ({"writer": [1, 2]}, ["one 'writer' for each of 12 training images", "got shape (2,)"]),
    ],
    ids=lambda value: None,
)
def test_what_a_source_cannot_mean_is_refused(given: dict[str, Any], parts: list[str]) -> None:
    with refused("data.source (Mine)", *parts):
        loaded(**given)


@pytest.mark.parametrize("returned", [(PIXELS, LABELS), None, ImageSet(PIXELS, PIXELS, NAMES)])  # type: ignore[arg-type]
def test_other_things_than_images_are_refused(returned: Any) -> None:
    with refused("data.source (Mine)", "expected"):
        _ = FederatedDataModule(Mine(returned), Deal([])).images


def deal(parts: Any, num_clients: int | None = 3) -> list[list[int]]:
    holdings = Deal(parts, num_clients).deal(LABELS.numpy(), 0, {}, validation_share=0.0)
    return [holding.train.tolist() for holding in holdings]


def test_parts_may_be_lists_in_any_order(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="mosaic"):
        assert deal([[3, 0], (1, 2), torch.tensor([11])]) == [[0, 3], [1, 2], [11]]
    assert "data.partition (Deal) dealt 7 of 12 images to nobody" in caplog.text


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([[0], [1]], ["expected 3 parts", "got 2"]),
        (None, ["expected a list of index arrays", "got NoneType"]),
        ({0: [0]}, ["expected a list of index arrays", "got dict"]),
        ([[0], [1], [12]], ["expected indices in 0..11", "got 12..12 at client 2"]),
        ([[0], [1], [-1]], ["expected indices in 0..11", "got -1..-1"]),
        ([[0], [1], [2.0]], ["indices of client 2 as whole numbers", "got [2.0]"]),
        ([[0], [1], [[2]]], ["shape (n,)", "got [[2]]"]),
        ([[0], [1], [[2], [3, 4]]], ["indices of client 2 as whole numbers"]),
        ([[0], [1], np.arange(12) > 3], ["whole numbers", "got array([False"]),
        ([[0], 1, [2]], ["indices of client 1"]),
    ],
    ids=lambda value: None,
)
def test_what_a_partition_cannot_mean_is_refused(parts: Any, said: list[str]) -> None:
    with refused("data.partition (Deal)", *said):
        deal(parts)


def test_names_are_pythons_own_text_and_arrays_may_lie_in_memory_as_they_like() -> None:
    """Names of numpy's kind would make a checkpoint that nobody can read without its classes."""
    found = loaded(PIXELS.numpy()[:, :, ::-1], LABELS.numpy().astype(">i8"), np.unique(["b", "a", "c"]))
    assert [type(name) for name in found.class_names] == [str] * 3
    assert found.class_names == ("a", "b", "c")
    assert torch.equal(found.train.pixels, PIXELS.flip(2))
    assert torch.equal(found.train.labels, LABELS)


@pytest.mark.parametrize(
    ("parts", "said"),
    [([], "at least one part from split(), got none"), ([[1, 1, 2]], "every image once, got 1 twice at client 0")],
)
def test_no_parts_and_images_that_come_twice_are_refused(parts: list[list[int]], said: str) -> None:
    images = Images(PIXELS, LABELS)
    with refused("data.partition", said):
        _ = FederatedDataModule(Mine(ImageSet(images, images, NAMES)), Deal(parts, None)).splits


def test_longer_numbers_than_torch_has_become_its_longest() -> None:
    assert as_tensor(np.array([0.5], np.longdouble)).tolist() == [0.5]
