"""Generated images by class, and how near they are to real ones."""

import numpy as np
import pytest
import torch

from mosaic.federation.nearness import nearness
from mosaic.nets.inference import to_pixels
from mosaic.runs.sample_figure import class_samples
from tests.small_runs import digits

pytestmark = pytest.mark.usefixtures("drawn")


def test_every_class_begins_a_row_with_its_name() -> None:
    images, labels = np.random.default_rng(0).random((13, 3, 8, 8)), np.array([0] * 10 + [2] * 3)
    figure = class_samples(images, labels, ["cat", "dog", "eel"], title="above")
    assert [text.get_text() for text in figure.texts] == ["above", "cat", "", "eel"]
    assert len(figure.axes) == 3
    strip = np.asarray(figure.axes[2].images[0].get_array())
    larger = strip.shape[0] // 8
    assert np.array_equal(strip[::larger, : 8 * larger : larger], images[10].transpose(1, 2, 0))
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_distance_stands_under_each_image() -> None:
    distances = np.array([0.5, 1.25])
    figure = class_samples(np.zeros((2, 1, 4, 6)), distances=distances)
    assert [text.get_text() for text in figure.texts] == ["", "0.50", "1.25"]
    places = [text.get_position()[0] for text in figure.texts[1:]]
    assert places == sorted(places)


def test_a_copy_is_at_no_distance_of_its_owner_alone() -> None:
    data = digits(4)
    mine = to_pixels(data.images.train.pixels[data.client(0).train[:3]])
    distances, usual = nearness(data, mine, 0)
    assert torch.equal(distances, torch.zeros(3))
    assert nearness(data, mine, 1)[0].min() > 0
    assert usual is not None
    assert usual > 0


def test_names_of_classes_are_text_and_no_formulas() -> None:
    class_samples(np.zeros((2, 1, 4, 4)), np.array([0, 1]), ["$a_$", "$b^$"]).canvas.draw()
