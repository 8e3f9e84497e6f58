import pytest
import torch

from mosaic.nets import ResNet18


@pytest.fixture
def net() -> ResNet18:
    return ResNet18((3, 32, 32), 10, width=2)


def test_width_64_is_the_usual_resnet_18() -> None:
    with torch.device("meta"):
        net = ResNet18((3, 32, 32), 10)
    assert sum(parameter.numel() for parameter in net.parameters()) == 11_173_962


def test_the_stem_keeps_the_size_of_small_images(net: ResNet18) -> None:
    assert net.body[:3](torch.rand(2, 3, 32, 32)).shape == (2, 2, 32, 32)
    assert net.body[:7](torch.rand(2, 3, 32, 32)).shape == (2, 16, 4, 4)


def test_each_stage_doubles_the_channels(net: ResNet18) -> None:
    assert net.head.in_features == 8 * 2
