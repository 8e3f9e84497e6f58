import pytest
import torch
from torch import Tensor

from mosaic.nets import Blueprint, Classifier, inference
from mosaic.nets.inference import images_at_once, predict, to_bytes, to_pixels

CPU = torch.device("cpu")


@pytest.fixture
def net(blueprint: Blueprint) -> Classifier:
    return blueprint.build(blueprint.initial(0))


@pytest.fixture
def images(random: torch.Generator) -> Tensor:
    return torch.randint(256, (10, 1, 8, 8), generator=random, dtype=torch.uint8)


def test_pixels_span_zero_to_one() -> None:
    assert to_pixels(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0, 0.2, 1])


def test_pixels_beyond_white_or_black_stay_what_they_are() -> None:
    assert to_bytes(torch.tensor([-0.1, 0.0, 0.5, 1.0, 1.01, 300.0])).tolist() == [0, 0, 128, 255, 255, 255]


def test_the_batch_size_does_not_matter(net: Classifier, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = predict(net, images, CPU)
    monkeypatch.setattr(inference, "images_at_once", lambda *_: 3)
    torch.testing.assert_close(predict(net, images, CPU), at_once)


@pytest.mark.parametrize(("side", "expected"), [(8, 512), (28, 83), (32, 64), (224, 8)])
def test_larger_images_go_in_smaller_batches_on_a_cpu(side: int, expected: int) -> None:
    images = torch.empty(0, 3, side, side)
    assert images_at_once(images, CPU) == expected
    assert images_at_once(images, torch.device("cuda")) == 512


@pytest.mark.parametrize("training", [True, False])
def test_asking_changes_neither_mode_nor_statistics(net: Classifier, images: Tensor, training: bool) -> None:
    net.train(training)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    predict(net, images, CPU)
    assert net.training is training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_answers_are_those_of_eval_mode_whatever_the_mode(net: Classifier, images: Tensor) -> None:
    expected = predict(net.eval(), images, CPU)
    assert torch.equal(predict(net.train(), images, CPU), expected)
    torch.testing.assert_close(expected, net.eval()(images / 255), atol=1e-5, rtol=1e-4)


def test_features_are_taken_without_gradient(net: Classifier, images: Tensor) -> None:
    features = predict(net, images, CPU, ask=net.features)
    assert features.shape == (10, net.head.in_features)
    assert not features.requires_grad
