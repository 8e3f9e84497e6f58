import math
from functools import partial

import pytest
import torch
from torch import nn

from mosaic.nets import MLP, Classifier, ResNet18, SmallCNN
from mosaic.nets.classifier import Normalize
from tests.cases import for_each
from tests.small_runs import LinearNet

BUILDERS = [partial(SmallCNN, width=4), partial(ResNet18, width=2), partial(MLP, width=8)]


def test_normalised_pixels_have_mean_zero_and_deviation_one(random: torch.Generator) -> None:
    images = torch.rand(64, 3, 5, 5, generator=random) * torch.tensor([1.0, 0.5, 0.1])[:, None, None]
    normalize = Normalize(3)
    normalize.set(images.mean((0, 2, 3)), images.std((0, 2, 3)))
    result = normalize(images)
    torch.testing.assert_close(result.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(result.std((0, 2, 3)), torch.ones(3))


def test_normalisation_travels_with_the_weights() -> None:
    sent, got = Normalize(1), Normalize(1)
    sent.set(torch.tensor([0.3]), torch.tensor([0.2]))
    got.load_state_dict(sent.state_dict())
    assert got(torch.full((1, 1, 1, 1), 0.5)).item() == pytest.approx(1)


@for_each("build", BUILDERS)
@for_each("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28), (3, 9, 13)])
def test_any_image_size_gives_logits_through_features_and_head(build, shape: tuple[int, int, int]) -> None:
    net: Classifier = build(shape, 7).eval()
    images = torch.rand(2, *shape)
    features = net.features(images)
    assert features.shape == (2, net.head.in_features)
    assert net(images).shape == (2, 7)
    assert torch.equal(net(images), net.head(features))


@pytest.mark.parametrize("build", BUILDERS)
def test_the_net_itself_normalises(build) -> None:
    net: Classifier = build((1, 8, 8), 3).eval()
    images = torch.rand(4, 1, 8, 8)
    plain = net(images)
    net.normalize.set(torch.tensor([0.5]), torch.tensor([0.25]))
    torch.testing.assert_close(net(0.25 * images + 0.5), plain)


@pytest.mark.parametrize("build", BUILDERS)
def test_images_do_not_influence_each_other_in_eval_mode(build) -> None:
    net: Classifier = build((1, 8, 8), 3).eval()
    images = torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(net(images)[3], net(images[3:4])[0])


@pytest.mark.parametrize("build", BUILDERS)
def test_every_parameter_learns(build) -> None:
    net: nn.Module = build((1, 16, 16), 3)
    net(torch.rand(4, 1, 16, 16)).logsumexp(1).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in net.parameters())


@for_each("build", BUILDERS)
@for_each("ratio", [0.5, 0.3, 0.01])
def test_a_narrower_network_has_the_same_layers_with_the_ceiling_of_the_width(build, ratio: float) -> None:
    net: Classifier = build((1, 8, 8), 3)
    narrow, expected = net.scaled(ratio), type(net)((1, 8, 8), 3, width=math.ceil(ratio * net.width))
    assert [(name, tensor.shape) for name, tensor in narrow.state_dict().items()] == [
        (name, tensor.shape) for name, tensor in expected.state_dict().items()
    ]
    assert narrow(torch.rand(2, 1, 8, 8)).shape == (2, 3)


def test_a_network_that_does_not_say_how_it_is_scaled_says_so() -> None:
    with pytest.raises(NotImplementedError, match=r"^LinearNet does not say how it is scaled: override .*\.scaled$"):
        LinearNet((1, 8, 8), 3).scaled(0.5)


def test_pixels_in_whole_numbers_are_refused() -> None:
    with pytest.raises(TypeError, match=r"floating point in .*got torch.uint8: divide them by 255"):
        Normalize(3)(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
