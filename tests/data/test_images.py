import numpy as np
import pytest
import torch

from mosaic.data.checks import checked, images_from_arrays, make_image_set
from mosaic.data.images import Images
from mosaic.data.pixels import pixel_statistics
from tests.cases import for_each
from tests.data.refusals import refused
from tests.data.sources.made import random_pixels


def grey(labels: list[int], size: int = 4) -> Images:
    return images_from_arrays(np.zeros((len(labels), size, size), np.uint8), np.array(labels), "zeros")


def test_channels_come_first_and_every_pixel_keeps_its_place() -> None:
    arrays = random_pixels(3, 4, 5, 3)
    images = images_from_arrays(arrays, np.arange(3), "random")
    assert images.shape == (3, 4, 5)
    for n, y, x, channel in np.ndindex(*arrays.shape):
        assert images.pixels[n, channel, y, x] == arrays[n, y, x, channel]


def test_grey_images_get_a_channel() -> None:
    arrays = random_pixels(2, 4, 5)
    images = images_from_arrays(arrays, np.arange(2), "random")
    assert images.shape == (1, 4, 5)
    assert np.array_equal(images.pixels[:, 0].numpy(), arrays)


@for_each("dtype", [np.uint8, np.int8, np.int32, np.uint16, np.int64])
@for_each("shape", [(3,), (3, 1)])
def test_labels_become_a_vector_of_int64(dtype: type, shape: tuple[int, ...]) -> None:
    images = images_from_arrays(random_pixels(3, 4, 4), np.array([2, 0, 1], dtype).reshape(shape), "random")
    assert images.labels.dtype == torch.int64
    assert images.labels.tolist() == [2, 0, 1]
    assert len(images) == 3


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_])
def test_pixels_other_than_uint8_are_refused(dtype: type) -> None:
    with refused("here", "expected uint8", f"got {np.dtype(dtype)} of shape (2, 4, 4)", "convert them"):
        images_from_arrays(np.zeros((2, 4, 4), dtype), np.zeros(2, int), "here")


@pytest.mark.parametrize("shape", [(16,), (2, 4), (1, 2, 4, 4, 3)])
def test_pixels_without_rows_and_columns_are_refused(shape: tuple[int, ...]) -> None:
    with refused("here", "(N, H, W)", f"of shape {shape}", "convert them"):
        images_from_arrays(np.zeros(shape, np.uint8), np.zeros(shape[0], int), "here")


@pytest.mark.parametrize("channels", [2, 4])
def test_a_number_of_channels_that_no_camera_has_is_refused(channels: int) -> None:
    with refused("here", "expected 1 or 3 channels", f"(4, 4, {channels})", "convert them"):
        images_from_arrays(np.zeros((2, 4, 4, channels), np.uint8), np.zeros(2, int), "here")


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
        images_from_arrays(random_pixels(2, 4, 4), labels, "here")


def test_no_images_are_refused() -> None:
    with refused("here", "at least one image", "got none", "fetch"):
        images_from_arrays(np.zeros((0, 4, 4), np.uint8), np.zeros(0, int), "here")


def test_two_splits_make_a_set() -> None:
    images = make_image_set(grey([0, 1, 2]), grey([2]), ("a", "b", "c", "d"), "here")
    assert images.num_classes == 4
    assert (len(images.train), len(images.test)) == (3, 1)


def test_splits_of_different_sizes_are_refused() -> None:
    with refused("here", "one image shape", "(1, 4, 4) for training", "(1, 5, 5) for test", "resize"):
        make_image_set(grey([0]), grey([0], size=5), ("a",), "here")


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
        make_image_set(grey(train), grey(test), ("a", "b", "c"), "here")


def test_one_class_and_no_pixels_teach_nothing() -> None:
    one = images_from_arrays(np.zeros((2, 4, 4), np.uint8), np.zeros(2, int), "here")
    with refused("here", "expected images of at least 2 classes, got 1"):
        make_image_set(one, one, ("cat",), "here")
    none = Images(torch.zeros(2, 1, 0, 4, dtype=torch.uint8), torch.tensor([0, 1]))
    with refused("here", "expected images of at least one pixel, got the shape (1, 0, 4)"):
        make_image_set(none, none, ("cat", "dog"), "here")


@pytest.mark.parametrize("shape", [(7, 5, 4, 1), (7, 5, 4, 3), (1, 1, 2, 3)])
def test_pixel_statistics_are_those_of_numpy(shape: tuple[int, ...]) -> None:
    arrays = (random_pixels(*shape) * np.linspace(0.2, 1, shape[-1])).astype(np.uint8)
    mean, std = pixel_statistics(images_from_arrays(arrays, np.zeros(shape[0], int), "random"))
    assert mean == pytest.approx((arrays / 255).mean((0, 1, 2)))
    assert std == pytest.approx((arrays / 255).std((0, 1, 2)))


@pytest.mark.parametrize("level", [0, 200, 255])
def test_images_of_one_colour_can_still_be_divided_by_their_deviation(level: int) -> None:
    arrays = np.full((3, 4, 4), level, np.uint8)
    mean, std = pixel_statistics(images_from_arrays(arrays, np.zeros(3, int), "flat"))
    assert mean == pytest.approx((level / 255,))
    assert std[0] == 1 / 255, "what is one level off, as generated images are, stays small"


def test_classes_with_one_image_or_none_are_warnings(caplog: pytest.LogCaptureFixture) -> None:
    make_image_set(grey([0, 0, 1]), grey([0]), ("ant", "bee", "cat"), "here")
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "here: 1 of 3 classes have no training image: cat" in caplog.text
    assert "here: 1 of 3 classes have one training image, so none of it can be held out: bee" in caplog.text


def test_two_classes_of_one_name_are_refused() -> None:
    with refused("here", "a different name for every class", "'cat' twice: rename one of them"):
        make_image_set(grey([0, 1, 2]), grey([2]), ("cat", "dog", "cat"), "here")


@pytest.mark.parametrize(("test", "warned"), [([0, 0, 1, 1], True), ([0, 1, 0, 1], False)])
def test_training_images_that_come_once_more_as_test_images_are_a_warning(
    test: list[int], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    checked(make_image_set(grey([0, 0, 1, 1]), grey(test), ("cat", "dog"), "there"), "here")
    assert ("here: the test images are the training images" in caplog.text) == warned
    assert caplog.text.count("the test images are the training images") == warned  # told once
