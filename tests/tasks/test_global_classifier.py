import pytest
import torch
from torch.nn.functional import cross_entropy

from mosaic.nets import Blueprint
from mosaic.nets.inference import to_pixels
from mosaic.tasks.global_classifier import GlobalClassifier


def test_a_rank_without_images_in_a_small_last_batch_counts_for_nothing(blueprint: Blueprint) -> None:
    """It would put NaN into the mean loss of all ranks."""
    classifier = GlobalClassifier()
    images, labels = torch.randint(256, (3, 1, 8, 8), dtype=torch.uint8), torch.tensor([0, 1, 2])
    classifier.net = blueprint.build(blueprint.initial(0)).eval()
    classifier.make_metrics(3)
    classifier.log = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    for batch in ((images, labels), (images[:0], labels[:0])):
        classifier.test_step(batch, 0)
    expected = cross_entropy(classifier(to_pixels(images)), labels)
    assert classifier.loss.compute().item() == pytest.approx(expected.item(), abs=1e-6)


def test_a_model_that_says_nothing_has_no_image_right(blueprint: Blueprint) -> None:
    """It would be right about all images of class 0."""
    classifier = GlobalClassifier()
    classifier.net = blueprint.build(blueprint.initial(0)).eval()
    torch.nn.init.constant_(classifier.net.head.bias, torch.nan)
    classifier.make_metrics(3)
    classifier.log = lambda *_, **__: None  # type: ignore[method-assign,assignment]
    with pytest.warns(UserWarning, match="nan"):  # of the loss, which has no value
        classifier.test_step((torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 2])), 0)
    assert [classifier.accuracy.compute(), classifier.balanced_accuracy.compute()] == [0, 0]
