import pytest
import torch
from torch import nn

from mosaic.nets import ResNet18
from mosaic.nets.batchnorm import batch_norm_inputs, batch_norms


def test_layers_are_found_by_type_even_in_shortcuts() -> None:
    names = [name for name, _ in ResNet18((1, 8, 8), 2, width=2).named_modules() if "downsample.1" in name]
    assert len(names) == 3
    assert len(batch_norms(ResNet18((1, 8, 8), 2, width=2))) == 1 + 16 + 3


def test_layers_without_statistics_are_left_out() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False), nn.LayerNorm(2))
    assert batch_norms(net) == [net[0]]


def test_what_flows_in_is_collected_with_its_gradient() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval()
    images = torch.rand(4, 3, requires_grad=True)
    with batch_norm_inputs(net) as layers:
        net(images)
    ((inputs, mean, variance),) = layers
    assert torch.equal(inputs, net[0](images))
    assert inputs.requires_grad
    assert mean is net[1].running_mean
    assert variance is net[1].running_var


def test_outside_the_block_nothing_is_collected() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2)).eval()
    with batch_norm_inputs(net) as layers:
        pass
    net(torch.rand(4, 2))
    assert layers == []


def test_an_error_inside_the_block_removes_the_hooks() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2)).eval()
    with pytest.raises(KeyError), batch_norm_inputs(net) as layers:
        raise KeyError
    net(torch.rand(4, 2))
    assert layers == []
