import numpy as np
import pytest
import torch

from mosaic.data.checks import check_labels, checked, warn_of_rare_classes
from mosaic.data.images import Images, ImageSet
from mosaic.data.pixels import pixel_statistics
from tests.cases import for_each
from tests.data.refusals import refused
from tests.data.sources.made import random_pixels


def grey(labels: list[int], size: int = 4) -> Images:
    return Images(torch.zeros(len(labels), 1, size, size, dtype=torch.uint8), torch.tensor(labels))


def stored(arrays: np.ndarray) -> Images:
    """Images of one class that files hold with their channels last."""
    return Images(torch.from_numpy(arrays).permute(0, 3, 1, 2), torch.zeros(len(arrays), dtype=torch.long))


@for_each("dtype", [np.uint8, np.int8, np.int32, np.uint16, np.int64])
@for_each("shape", [(3,), (3, 1)])
def test_labels_become_a_vector_of_int64(dtype: type, shape: tuple[int, ...]) -> None:
    labels = check_labels(np.array([2, 0, 1], dtype).reshape(shape), 3, "here")
    assert labels.dtype == np.int64
    assert labels.tolist() == [2, 0, 1]


@for_each(
    ("labels", "got"),
    [
        (np.zeros(1, int), "got 1 labels of type int64"),
        (np.zeros((2, 2), int), "got 4 labels of type int64"),
        (np.zeros(2), "got 2 labels of type float64"),
        (np.array(["cat", "dog"]), "got 2 labels of type <U3"),
    ],
)
def test_anything_but_one_integer_label_per_image_is_refused(labels: np.ndarray, got: str) -> None:
    with refused("here", "expected one integer label for each of 2 images", got, "store one"):
        check_labels(labels, 2, "here")


def test_no_images_are_refused() -> None:
    with refused("here", "at least one image", "got none", "fetch"):
        check_labels(np.zeros(0, int), 0, "here")


def test_two_splits_make_a_set() -> None:
    images = checked(ImageSet(grey([0, 1, 2]), grey([2]), ("a", "b", "c", "d")), "here")
    assert images.num_classes == 4
    assert (len(images.train), len(images.test)) == (3, 1)


def test_splits_of_different_sizes_are_refused() -> None:
    with refused("here", "one image shape", "(1, 4, 4) for training", "(1, 5, 5) for test", "resize"):
        checked(ImageSet(grey([0]), grey([0], size=5), ("a",)), "here")


@pytest.mark.parametrize(
    ("train", "test", "got"),
    [
        ([0, 3], [0], "expected training labels in 0..2 (3 classes), got 0..3"),
        ([-1, 2], [0], "expected training labels in 0..2 (3 classes), got -1..2"),
        ([0], [1, 3], "expected test labels in 0..2 (3 classes), got 1..3"),
    ],
)
def test_labels_without_a_name_are_refused(train: list[int], test: list[int], got: str) -> None:
    with refused("here", got, "number the classes from 0"):
        checked(ImageSet(grey(train), grey(test), ("a", "b", "c")), "here")


def test_one_class_and_no_pixels_teach_nothing() -> None:
    one = grey([0, 0])
    with refused("here", "expected images of at least 2 classes, got 1"):
        checked(ImageSet(one, one, ("cat",)), "here")
    none = Images(torch.zeros(2, 1, 0, 4, dtype=torch.uint8), torch.tensor([0, 1]))
    with refused("here", "expected images of at least one pixel, got the shape (1, 0, 4)"):
        checked(ImageSet(none, none, ("cat", "dog")), "here")


@pytest.mark.parametrize("shape", [(7, 5, 4, 1), (7, 5, 4, 3), (1, 1, 2, 3)])
def test_pixel_statistics_are_those_of_numpy(shape: tuple[int, ...]) -> None:
    arrays = (random_pixels(*shape) * np.linspace(0.2, 1, shape[-1])).astype(np.uint8)
    mean, std = pixel_statistics(stored(arrays))
    assert mean == pytest.approx((arrays / 255).mean((0, 1, 2)))
    assert std == pytest.approx((arrays / 255).std((0, 1, 2)))


@pytest.mark.parametrize("level", [0, 200, 255])
def test_images_of_one_colour_can_still_be_divided_by_their_deviation(level: int) -> None:
    mean, std = pixel_statistics(stored(np.full((3, 4, 4, 1), level, np.uint8)))
    assert mean == pytest.approx((level / 255,))
    assert std[0] == 1 / 255, "what is one level off, as generated images are, stays small"


def test_classes_with_one_image_or_none_are_warnings(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_rare_classes(torch.tensor([0, 0, 1]), ("ant", "bee", "cat"), "here")
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "here: 1 of 3 classes have no training image: cat" in caplog.text
    assert "here: 1 of 3 classes have one training image, so none of it can be held out: bee" in caplog.text


def test_two_classes_of_one_name_are_refused() -> None:
    with refused("here", "a different name for every class", "'cat' twice: rename one of them"):
        checked(ImageSet(grey([0, 1, 2]), grey([2]), ("cat", "dog", "cat")), "here")


@pytest.mark.parametrize(("test", "warned"), [([0, 0, 1, 1], True), ([0, 1, 0, 1], False)])
def test_training_images_that_come_once_more_as_test_images_are_a_warning(
    test: list[int], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    checked(ImageSet(grey([0, 0, 1, 1]), grey(test), ("cat", "dog")), "here")
    assert ("here: the test images are the training images" in caplog.text) == warned
    assert caplog.text.count("the test images are the training images") == warned  # told once
