"""Federations on datasets that somebody's own code has made."""

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder

import mosaic
from mosaic.algorithms import FedAvg
from mosaic.data import DirichletPartition, from_datasets
from mosaic.data.sources.rules import SCALED, plain
from tests.small_runs import LinearNet

Pair = tuple[Any, Any]
PIXELS = np.arange(2 * 6 * 5, dtype=np.uint8).reshape(2, 6, 5)
"""Two grey images."""


class Listed(Dataset[Pair]):
    """Items as they are listed."""

    def __init__(self, *items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> Any:
        return self.items[number]


class Streamed(IterableDataset[Pair]):
    """Has no items by number."""

    def __iter__(self) -> Any:
        return iter(())


class Broken(Listed):
    """Fails where an item is asked for."""

    def __getitem__(self, number: int) -> Any:
        raise OSError("no such picture")


class Named(Listed):
    """Items of classes with names."""

    def __init__(self, classes: list[Any], *items: Any) -> None:
        super().__init__(*items)
        self.classes = classes


def blobs(count: int, seed: int) -> TensorDataset:
    """Images of two classes, bright and dark, as floating point."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    return TensorDataset(0.5 * torch.rand(count, 3, 4, 4, generator=random) + 0.5 * labels[:, None, None, None], labels)


def test_every_form_of_an_image_is_the_same_image() -> None:
    forms = [
        *(torch.from_numpy(PIXELS[0]), torch.from_numpy(PIXELS[0])[None], PIXELS[0], PIXELS[0][:, :, None]),
        *(Image.fromarray(PIXELS[0]), PIXELS[0].astype(np.float64) / 255, torch.from_numpy(PIXELS[0])[None] / 255),
    ]
    labels = [1, np.int64(1), torch.tensor(1), np.array(1), np.array([1]), torch.tensor([[1]]), 1]
    for form, label in zip(forms, labels, strict=True):
        data = from_datasets([Listed((form, label))], Listed((form, 0)))
        assert np.array_equal(data.images.train.pixels[0, 0], PIXELS[0])
        assert data.images.train.labels.tolist() == [1]
    colour = np.stack([PIXELS[0], PIXELS[1], PIXELS[0]], 2)
    for form in (colour, Image.fromarray(colour), torch.from_numpy(colour).permute(2, 0, 1)):
        found = from_datasets([Listed((form, 1))], Listed((form, 0))).images.train.pixels[0]
        assert np.array_equal(found.permute(1, 2, 0), colour)


def test_a_client_holds_its_own_dataset_and_nothing_else() -> None:
    data = from_datasets([blobs(4, 0), blobs(30, 1), blobs(7, 2)], blobs(5, 3), validation_share=0.2)
    data.setup("fit")
    sizes = [sorted([*train, *validation]) for train, validation in data.splits]
    assert sizes == [list(range(4)), list(range(4, 34)), list(range(34, 41))]
    assert len(data.splits[1].validation) == pytest.approx(6, abs=2)
    assert data.images.class_names == ("0", "1")


def test_one_dataset_may_be_dealt_out_and_classes_named() -> None:
    one = blobs(60, 0)
    one.classes = ["dark", "bright"]  # type: ignore[attr-defined]
    data = from_datasets([one], blobs(4, 1), partition=DirichletPartition(3, 10.0))
    data.setup("fit")
    assert (data.num_clients, data.images.class_names) == (3, ("dark", "bright"))
    assert from_datasets([one], one, class_names=["a", "b"]).images.class_names == ("a", "b")


def test_own_datasets_are_trained_on(tmp_path: Path) -> None:
    data = from_datasets([blobs(40, seed) for seed in range(3)], blobs(50, 9), batch_size=8)
    schedule = mosaic.Schedule(2, local_steps=20, fine_tune_rounds=0, learning_rate=0.1)
    run = mosaic.Federation(str(tmp_path / "run"), schedule).fit(LinearNet, data, FedAvg(), {"accelerator": "cpu"})
    assert run.summary["test_accuracy"] > 0.9
    other = from_datasets([blobs(40, seed) for seed in (0, 1, 5)], blobs(50, 9), batch_size=8)
    with pytest.raises(mosaic.MosaicError, match=r"changed: data\.content\.some_pixels"):
        mosaic.Federation(str(run.path), schedule).fit(
            LinearNet, other, FedAvg(), {"accelerator": "cpu"}, ckpt_path="auto"
        )


def test_what_is_no_list_of_datasets_is_refused_at_once() -> None:
    good: Any = blobs(4, 0)
    for given, test, told in (
        (good, good, "datasets: expected a list with the dataset of each client, got TensorDataset"),
        ([], good, "datasets: expected a list with the dataset of each client, got list without any"),
        ([good, 3], good, r"datasets\[1\]: expected a dataset with a length and items by number.*got int"),
        ([Streamed()], good, r"datasets\[0\]: expected a dataset.*got Streamed"),
        ([good], None, "test: expected a dataset.*got NoneType"),
        ([good], Listed(), "test: expected at least one image, got none"),
    ):
        with pytest.raises(mosaic.MosaicError, match=told):
            from_datasets(given, test)


def test_items_that_are_no_labelled_images_are_refused_where_they_stand() -> None:
    good, grey = Listed((PIXELS[0], 0), (PIXELS[1], 1)), PIXELS[0]
    for items, told in (
        (Listed((grey, 0), (grey,)), r"datasets\[0\]\[1\]: expected a pair of an image and its label, got tuple of 1"),
        (Listed({"image": grey, "label": 0}), "expected a pair of an image and its label, got dict"),
        (Listed(("path.png", 0)), "expected an image as a tensor .* got str"),
        (Listed((np.zeros((6, 5, 4), np.uint8), 0)), r"with 1 or 3 channels, got shape \(6, 5, 4\)"),
        (
            Listed((Image.fromarray(grey.astype(np.int32)), 0)),
            "expected images of 16 bits with values up to 65535, got none above 385.*store values of 8 bits as uint8",
        ),
        (Listed((grey, 0.5)), "expected the label as a whole number from 0 on, got 0.5"),
        (Listed((grey, -1)), "expected the label as a whole number from 0 on, got -1"),
        (Listed((grey, torch.tensor([0, 1]))), "expected the label as a whole number .*: of a one-hot label, give the"),
        (Listed((grey, "cat")), r"expected the label as a whole number .* got 'cat': give class_names=\[...\]"),
        (Named(["cat", "dog"], (grey, "eel")), r"expected the label as one of the classes \(cat, dog\), got 'eel'"),
        (Listed((grey, 0), (grey[1:], 0)), r"datasets\[0\]\[1\]: .* as in datasets\[0\]\[0\], got .*\(1, 5, 5\)"),
        (Listed((grey[1:], 0)), r"test: expected images of shape \(1, 5, 5\) as in datasets\[0\], got \(1, 6, 5\)"),
        (Listed((grey / 255 - 0.5, 0)), "datasets.0.: expected .*in .0, 1., got .*leave normalisation to the network"),
        (Listed((grey.astype(np.uint16), 0)), "expected images of 16 bits .* store values of 8 bits as uint8"),
        (Listed((grey.astype(np.int16) - 9, 0)), r"torch.int16 in \[-9, 20\]: torchvision's ToTensor wraps"),
        (Listed((grey.astype(np.int32) * 257, 0)), r"torch.int32 in \[0, 7453\]: round 16 bits to 8"),
        (Broken(1), r"datasets\[0\]\[0\] cannot be read: OSError: no such picture"),
    ):
        with pytest.raises(mosaic.MosaicError, match=told):
            _ = from_datasets([items], good).images
    with pytest.raises(mosaic.MosaicError, match="class_names: expected a list of text"):
        _ = from_datasets([good], good, class_names="ab").images
    with pytest.raises(mosaic.MosaicError, match="number the classes from 0 and name each of them"):
        _ = from_datasets([Listed((grey, 5), (grey, 0))], good, class_names=["a", "b"]).images


def test_labels_of_datasets_with_class_names_are_matched_by_name() -> None:
    dark, bright = np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8)
    here, there = Named(["cat", "dog"], (dark, 0), (bright, 1)), Named(["dog", "cat"], (bright, 0), (dark, 1))
    alone, plain = Named(["dog"], (bright, 0)), Listed((bright, 1))
    images = from_datasets([here, there, alone, plain], there).images
    assert images.class_names == ("cat", "dog")
    assert images.train.labels.tolist() == [0, 1, 1, 0, 1, 1]
    assert images.test.labels.tolist() == [1, 0]
    apart = from_datasets([Named(["cat"], (dark, 0)), alone], here).images
    assert (apart.class_names, apart.train.labels.tolist()) == (("cat", "dog"), [0, 1])
    ordered = from_datasets([here, there], there, class_names=["dog", "cat"]).images
    assert (ordered.class_names, ordered.train.labels.tolist()) == (("dog", "cat"), [1, 0, 0, 1])
    synonyms = Named([("cat", "puss"), ("dog",)], (dark, 0), (bright, 1))
    assert from_datasets([synonyms], synonyms).images.class_names == ("cat, puss", "dog")
    renamed = from_datasets([here, there], there, class_names=["Katze", "Hund"]).images
    assert (renamed.class_names, renamed.train.labels.tolist()) == (("Katze", "Hund"), [0, 1, 1, 0])
    with pytest.raises(mosaic.MosaicError, match=r"test: expected only the classes cat, dog, got eel"):
        _ = from_datasets([here], Named(["eel", "dog"], (dark, 0))).images


def test_labels_may_be_names_or_whole_numbers_in_floating_point() -> None:
    grey = PIXELS[0]
    words = Listed((grey, "dog"), (grey, "cat"), (grey, np.str_("dog")), (grey, 0.0), (grey, torch.tensor(1.0)))
    images = from_datasets([words], words, class_names=["cat", "dog"]).images
    assert images.train.labels.tolist() == images.test.labels.tolist() == [1, 0, 1, 0, 1]
    own = Named(["dog", "cat"], (grey, "dog"), (grey, 1))
    assert from_datasets([words, own], own, class_names=["cat", "dog"]).images.test.labels.tolist() == [1, 0]


class Wrapping(Listed):
    """Wraps a dataset and passes its items on."""

    def __init__(self, dataset: Named) -> None:
        super().__init__(*dataset.items)
        self.dataset = dataset


def test_parts_and_sums_of_datasets_have_the_classes_of_what_they_are_made_of(caplog: pytest.LogCaptureFixture) -> None:
    grey = PIXELS[0]
    here, there = Named(["cat", "dog"], (grey, 0), (grey, 1)), Named(["dog", "eel"], (grey, 0), (grey, 1))
    expected = from_datasets([here, there], here).images
    for part in (lambda given: Subset(given, range(2)), lambda given: ConcatDataset([Subset(given, [0]), given])):
        images = from_datasets([part(here), part(there)], part(here)).images
        assert images.class_names == expected.class_names == ("cat", "dog", "eel")
        assert sorted(set(images.train.labels.tolist())) == [0, 1, 2]
        assert images.train.labels[-2:].tolist() == [1, 2]
    assert "no `classes`" not in caplog.text
    both: Any = ConcatDataset([here, there])
    with pytest.raises(mosaic.MosaicError, match=r"datasets\[1\]: expected a ConcatDataset .*\(cat, dog\) and \(dog"):
        _ = from_datasets([here, both], here).images
    named = from_datasets([both, both], both, class_names=["ape", "bee"]).images
    assert named.class_names == ("ape", "bee"), "every label is a place in the names that were given"
    numbered: Any = ConcatDataset([Wrapping(Named([0, 1], (grey, 0), (grey, 1)))])  # type: ignore[list-item]
    assert from_datasets([numbered], numbered, class_names=["ape", "bee"]).images.class_names == ("ape", "bee")
    both.classes = ["cat", "dog"]
    assert from_datasets([here, both], here).images.class_names == ("cat", "dog")
    mixed: Any = ConcatDataset([here, [(grey, 1)]])
    assert from_datasets([mixed, here], here).images.train.labels.tolist() == [0, 1, 1, 0, 1]


def test_what_wraps_a_dataset_is_not_taken_for_it_where_that_would_mix_classes_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    grey = PIXELS[0]
    here, there = Named(["cat", "dog"], (grey, 0), (grey, 1)), Named(["dog", "eel"], (grey, 0), (grey, 1))
    for given in ([Wrapping(here), Wrapping(there)], [here, Subset(Wrapping(there), [0])]):
        with pytest.raises(mosaic.MosaicError, match=r"datasets\[1\]: expected `classes` of Wrapping.*got none"):
            _ = from_datasets(given, here).images
        assert from_datasets(given, here, class_names=["cat", "dog"]).images.num_classes == 2
    assert from_datasets([Wrapping(here), Wrapping(here)], Wrapping(here)).images.class_names == ("0", "1")
    caplog.clear()
    _ = from_datasets([here, Listed((grey, 1))], [(grey, 0)]).images
    assert "datasets[1], test: no `classes`, as other datasets have" in caplog.text


class Several(Dataset[Pair]):
    """Wraps datasets in a list, and holds itself."""

    def __init__(self, *datasets: Any) -> None:
        self.parts, self.joined, self.parent = list(datasets), [item for each in datasets for item in each], self

    def __len__(self) -> int:
        return len(self.joined)

    def __getitem__(self, number: int) -> Any:
        return self.joined[number]


def test_what_wraps_datasets_at_any_depth_is_not_taken_for_them() -> None:
    grey = PIXELS[0]
    here, there = Named(["cat", "dog"], (grey, 0), (grey, 1)), Named(["dog", "eel"], (grey, 0), (grey, 1))
    twice = [Several(Several(each)) for each in (here, there)]
    nameless = Listed((grey, 0), (grey, 1))
    for given, test, told in (
        (twice, twice[0], r"datasets\[1\]: expected `classes` of Several.*\(cat, dog\) and \(dog, eel\)"),
        ([Several(here, there)], nameless, r"datasets\[0\]: expected `classes` of Several.*\(cat, dog\) and \(dog"),
        ([ConcatDataset([Several(here), Several(there)])], nameless, r"datasets\[0\]: expected a ConcatDataset of"),
        ([ConcatDataset([here, Subset(Several(there), [1])])], here, r"datasets\[0\]: expected a ConcatDataset of"),
    ):
        with pytest.raises(mosaic.MosaicError, match=told):
            _ = from_datasets(given, test).images
        assert from_datasets(given, test, class_names=["ape", "bee"]).images.num_classes == 2
    same: Any = ConcatDataset([here, Several(here)])
    assert from_datasets([same], here).images.train.labels.tolist() == [0, 1, 0, 1]


def test_classes_do_not_name_labels_that_a_target_transform_has_changed(caplog: pytest.LogCaptureFixture) -> None:
    dark, bright = np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8)
    swapped: Any = Named(["cat", "dog"], (bright, 0), (dark, 1))
    swapped.target_transform = lambda label: 1 - label
    test = Listed((bright, 0), (dark, 1))
    for train in (swapped, Subset(swapped, [0, 1]), ConcatDataset([swapped])):
        caplog.clear()
        images = from_datasets([train], test, class_names=["dog", "cat"]).images
        assert (images.class_names, images.train.labels.tolist()) == (("dog", "cat"), [0, 1])
        assert "datasets[0]: its target_transform may change labels, so its `classes` (" in caplog.text
    assert from_datasets([swapped], test).images.class_names == ("0", "1")
    with pytest.raises(mosaic.MosaicError, match=r"datasets\[0\]: expected `classes` of Named.*leave target_transform"):
        _ = from_datasets([swapped], Named(["cat", "dog", "eel"], (dark, 0))).images
    swapped.target_transform = None
    assert from_datasets([swapped], test, class_names=["dog", "cat"]).images.train.labels.tolist() == [1, 0]


def test_labels_other_than_0_to_c_are_numbered_by_value_and_identifiers_are_no_classes() -> None:
    grey = PIXELS[0]
    images = from_datasets([Listed((grey, 3)), Listed((grey, 1), (grey, 3))], Listed((grey, 1))).images
    assert (images.class_names, images.train.labels.tolist()) == (("1", "3"), [1, 0, 1])
    tens = from_datasets([Listed((grey, 0), (grey, 50)), Listed((grey, 20))], Listed((grey, 20))).images
    assert tens.class_names == ("0", "20", "50")
    assert (tens.train.labels.tolist(), tens.test.labels.tolist()) == ([0, 2, 1], [1])
    lacking = from_datasets([Listed((grey, 0)), Listed((grey, 3))], Listed((grey, 1), (grey, 2))).images
    assert (lacking.num_classes, lacking.train.labels.tolist(), lacking.test.labels.tolist()) == (4, [0, 3], [1, 2])
    far = from_datasets([Listed((grey, 0), (grey, 10**12))], Listed((grey, 0))).images
    assert far.class_names == ("0", "1000000000000")
    with pytest.raises(mosaic.MosaicError, match="expected the label as a whole number from 0 on"):
        _ = from_datasets([Listed((grey, 2**63))], Listed((grey, 0))).images


def test_pictures_follow_the_rules_of_every_source() -> None:
    sixteen = PIXELS[0].astype(np.uint16) * 257
    deep = Image.fromarray(sixteen)
    clear = Image.fromarray(np.zeros((6, 5, 4), np.uint8), "RGBA")
    arrays = (sixteen, sixteen[:, :, None], sixteen.astype(">u2"), torch.from_numpy(sixteen)[None])
    expected_of = [(form, PIXELS[0][None]) for form in (deep, *arrays)]
    for picture, expected in (*expected_of, (clear, np.full((3, 6, 5), 255))):
        found = from_datasets([Listed((picture, 1))], Listed((picture, 0))).images.train.pixels[0]
        assert np.array_equal(found, expected)
    fractions = Image.fromarray(PIXELS[0].astype(np.float32))
    with pytest.raises(mosaic.MosaicError, match=r"datasets\[0\]\[0\]: values are fractions, .*: convert it first"):
        _ = from_datasets([Listed((fractions, 0))], Listed((fractions, 0))).images


@pytest.mark.parametrize("others", [PIXELS[0], PIXELS[0].astype(np.uint16) * 257], ids=["8 bits", "16 bits"])
def test_eight_bits_in_sixteen_are_refused_though_others_are_none(others: np.ndarray) -> None:
    good, dark = Listed((others, 0)), Listed((PIXELS[0].astype(np.uint16), 0))
    both = Listed((PIXELS[0], 0), (PIXELS[0].astype(np.uint16), 0))
    for train, test, told in (
        ([good, dark], good, "datasets.1."),
        ([good], dark, "test"),
        ([both], good, "datasets.0."),
    ):
        with pytest.raises(mosaic.MosaicError, match=f"^{told}: expected images of 16 bits .* got none above 385"):
            _ = from_datasets(train, test).images
    black = Listed((np.zeros_like(PIXELS[0], np.uint16), 1))
    assert from_datasets([good, black], good).images.train.pixels[1].eq(0).all()


def test_items_are_held_as_8_bits_while_they_are_read() -> None:
    given: list[weakref.ref[np.ndarray]] = []

    class Watched(Listed):
        """Counts its images that somebody holds."""

        def __getitem__(self, number: int) -> Pair:
            assert sum(image() is not None for image in given) <= 1, "the last one"
            given.append(weakref.ref(image := np.full((4, 4), number / 10)))
            return image, number % 2

    data = from_datasets([Watched(*range(10))], [(torch.zeros(1, 4, 4), 0)])
    assert data.images.train.pixels[:, 0, 0, 0].tolist() == [round(25.5 * number) for number in range(10)]


def test_the_range_of_pixels_is_that_of_all_items() -> None:
    dim, bright, none = (torch.full((1, 4, 4), value) for value in (0.5, 1.5, torch.nan))
    for last, told in ((bright, r"\[0.5, 1.5\]"), (none, r"\[nan, nan\]")):
        with pytest.raises(mosaic.MosaicError, match=rf"^datasets.0.: .* got torch.float32 in {told}: leave"):
            _ = from_datasets([Listed((dim, 0), (last, 1), (dim, 0))], Listed((dim, 0))).images
    for one in (True, np.int32(1)):
        flat = np.full((4, 4), one)
        with pytest.raises(mosaic.MosaicError, match="of 0 and 1 alone, which would be nearly black"):
            _ = from_datasets([Listed((0 * flat if one is not True else ~flat, 0), (flat, 1))], Listed((dim, 0))).images


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_sixteen_bits_in_either_order_of_bytes_become_eight(mode: str, tmp_path: Path) -> None:
    values = (PIXELS[0].astype(np.uint16) * 257).astype(">u2" if mode.endswith("B") else "<u2")
    file = tmp_path / "grey.tif"
    Image.frombytes(mode, values.shape[::-1], values.tobytes()).save(file)
    with Image.open(file) as picture:
        assert picture.mode == mode
        found, notes = plain(picture)
    assert np.array_equal(np.asarray(found), PIXELS[0])
    assert notes == [SCALED]


def test_a_folder_of_torchvision_leaves_pictures_to_the_rules_where_pillow_opens_them(tmp_path: Path) -> None:
    sixteen, palette = Image.fromarray(PIXELS[0].astype(np.uint16) * 2056), Image.fromarray(PIXELS[1]).convert("P")
    clear = Image.fromarray(np.zeros((6, 5, 4), np.uint8), "RGBA")
    for folder, pictures in (("grey", [sixteen]), ("colour", [palette, clear])):
        for number, picture in enumerate(pictures):
            (tmp_path / folder / "cat").mkdir(parents=True, exist_ok=True)
            picture.save(tmp_path / folder / "cat" / f"{number}.png")
    for folder, expected in (("grey", [8 * PIXELS[0]]), ("colour", [PIXELS[1], np.full((6, 5), 255)])):
        here = ImageFolder(str(tmp_path / folder), loader=Image.open)
        found = from_datasets([here], here, class_names=["cat", "dog"]).images
        for pixels, each in zip(found.train.pixels, expected, strict=True):
            assert np.array_equal(pixels[0], each)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"seed": None}, "data.seed: expected a whole number, got None"),
        ({"batch_size": "8"}, "data.batch_size: expected a whole number, got '8'"),
        ({"validation_share": "0.1"}, r"data.validation_share: expected a value in \[0, 1\), got 0.1"),
        ({"mean": 0.5}, "data.mean: expected a list with a number for each channel, got 0.5"),
        ({"mean": torch.tensor(0.5)}, "data.mean: expected a list with a number for each channel, got 0.5"),
        ({"partition": "dirichlet"}, "data.partition: expected a partition, .* got 'dirichlet'"),
        ({"partition": DirichletPartition}, "data.partition: expected a partition, .* got <class"),
    ],
)
def test_arguments_of_other_kinds_are_refused_at_once(given: dict[str, Any], told: str) -> None:
    with pytest.raises(mosaic.MosaicError, match=told):
        from_datasets([blobs(4, 0)], blobs(4, 1), **given)
