import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from torch.nn.functional import cross_entropy

from mosaic.nets import Blueprint
from mosaic.nets.inference import to_pixels
from mosaic.tasks.global_classifier import BalancedAccuracy, GlobalClassifier


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
    classifier.test_step((torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 2])), 0)
    assert [classifier.accuracy.compute(), classifier.balanced_accuracy.compute()] == [0, 0]
    assert classifier.loss.compute().isnan()


def test_balanced_accuracy_is_a_mean_over_the_classes_that_are_there() -> None:
    """That of scikit-learn, which warns of guesses beyond them."""
    labels = torch.tensor([0] * 8 + [2] * 2)
    guessed = torch.tensor([0] * 6 + [3, 1] + [2, 0])
    metric = BalancedAccuracy(4)
    for part in (slice(0, 3), slice(3, 10)):
        metric.update(guessed[part] == labels[part], labels[part])
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        expected = balanced_accuracy_score(labels, guessed)
    assert metric.compute().item() == pytest.approx(expected) == pytest.approx((6 / 8 + 1 / 2) / 2)
