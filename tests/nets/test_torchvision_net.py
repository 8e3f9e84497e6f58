import pytest
import torch
import torchvision
from torch import Tensor, nn

from mosaic.nets import TorchvisionNet

NAMES = pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "mobilenet_v2", "resnet18"])


@pytest.fixture
def images(random: torch.Generator) -> Tensor:
    return torch.rand(3, 3, 32, 32, generator=random)


def built(name: str, channels: int = 3) -> tuple[TorchvisionNet, nn.Module]:
    """Ours and torchvision's own, from the same seed."""
    torch.manual_seed(0)
    ours = TorchvisionNet((channels, 32, 32), 7, name)
    torch.manual_seed(0)
    return ours.eval(), torchvision.models.get_model(name, weights=None, num_classes=7).eval()


@NAMES
@torch.no_grad()
def test_it_says_what_torchvisions_network_says(name: str, images: Tensor) -> None:
    ours, theirs = built(name)
    ours.normalize.set(torch.full((3,), 0.5), torch.full((3,), 0.25))
    assert torch.equal(ours(images), theirs((images - 0.5) / 0.25))
    assert theirs(images).shape == (3, 7)


@NAMES
@torch.no_grad()
def test_the_last_linear_layer_is_the_head(name: str, images: Tensor) -> None:
    ours, theirs = built(name)
    last = [module for module in theirs.modules() if isinstance(module, nn.Linear)][-1]
    assert torch.equal(ours.head.weight, last.weight)
    features = ours.features(images)
    assert features.shape == (3, last.in_features)
    assert torch.equal(ours.head(features), ours(images))
    assert not any(isinstance(module, nn.Linear) and module.out_features == 7 for module in ours.body.modules())


@torch.no_grad()
def test_grey_images_are_repeated_to_three_channels(images: Tensor) -> None:
    grey = images[:, :1]
    (ours, _), (colourful, _) = built("shufflenet_v2_x0_5", channels=1), built("shufflenet_v2_x0_5")
    assert torch.equal(ours(grey), colourful(grey.repeat(1, 3, 1, 1)))


def test_every_parameter_learns(images: Tensor) -> None:
    net, _ = built("shufflenet_v2_x0_5")
    net.train()(images).logsumexp(1).sum().backward()
    idle = {name for name, parameter in net.named_parameters() if parameter.grad.abs().max() < 1e-4}
    assert all(name.endswith(("branch1.1.bias", "branch2.4.bias")) for name in idle), "which BatchNorm takes away again"


@pytest.mark.parametrize(("name", "says"), [("resnet19", "resnet19"), ("squeezenet1_1", "no linear layer")])
def test_what_is_no_classifier_with_a_head_is_refused(name: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        TorchvisionNet((3, 32, 32), 7, name)


def test_auxiliary_classifiers_are_left_out_and_other_arguments_passed_on() -> None:
    images = torch.rand(2, 3, 32, 32)
    assert TorchvisionNet((3, 32, 32), 7, "googlenet").train()(images).shape == (2, 7)
    net = TorchvisionNet((3, 32, 32), 7, "mobilenet_v2", arguments={"width_mult": 0.25})
    assert sum(p.numel() for p in net.parameters()) < 500_000
    with pytest.raises(ValueError, match=r"mobilenet_v2 does not take these arguments: .*patches"):
        TorchvisionNet((3, 32, 32), 7, "mobilenet_v2", arguments={"patches": 4})


@pytest.mark.slow
def test_a_vision_transformer_is_built_for_the_images() -> None:
    assert TorchvisionNet((3, 32, 32), 7, "vit_b_16")(torch.rand(2, 3, 32, 32)).shape == (2, 7)
