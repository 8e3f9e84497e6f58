import copy

import numpy as np
import pytest
import torch
from torch import nn

from mosaic.nets.moving_average import MovingAverage


def net_of(weight: float) -> nn.Linear:
    net = nn.Linear(2, 1)
    nn.init.constant_(net.weight, weight)
    nn.init.constant_(net.bias, -weight)
    return net


@pytest.mark.parametrize("steps", [1, 2, 150])
def test_a_net_that_does_not_move_is_its_own_average_from_the_first_step(steps: int) -> None:
    average = MovingAverage(net_of(123.0), decay=0.99)
    for _ in range(steps):
        average.update(net_of(3.0))
    assert average.corrected().weight.tolist()[0] == pytest.approx([3.0, 3.0])
    assert average.corrected().bias.item() == pytest.approx(-3.0)


def test_the_start_leaves_no_trace() -> None:
    one, other = MovingAverage(net_of(0.0), 0.9), MovingAverage(net_of(1e6), 0.9)
    for average in (one, other):
        average.update(net_of(1.0))
        average.update(net_of(2.0))
    assert torch.equal(one.corrected().weight, other.corrected().weight)


def test_it_is_numpys_weighted_average() -> None:
    values = [1.0, -4.0, 2.5, 7.0]
    average = MovingAverage(net_of(0.0), decay=0.8)
    for value in values:
        average.update(net_of(value))
    expected = np.average(values, weights=[0.8**3, 0.8**2, 0.8, 1.0])
    assert average.corrected().weight[0, 0].item() == pytest.approx(expected)


def test_decay_zero_keeps_the_last_weights_bit_for_bit() -> None:
    average = MovingAverage(net_of(0.0), decay=0.0)
    for value in (0.1, 0.7, 1 / 3):
        average.update(net_of(value))
    assert torch.equal(average.corrected().weight, net_of(1 / 3).weight)


def test_buffers_are_copied_and_not_averaged() -> None:
    net = nn.BatchNorm1d(3)
    average = MovingAverage(net, decay=0.99)
    for _ in range(3):
        net(torch.randn(8, 3))
        average.update(net)
    result = average.corrected()
    assert torch.equal(result.running_mean, net.running_mean)
    assert torch.equal(result.running_var, net.running_var)
    assert int(result.num_batches_tracked) == 3


def test_the_result_is_a_frozen_copy_in_eval_mode() -> None:
    average = MovingAverage(net_of(0.0), decay=0.5)
    average.update(net_of(1.0))
    result = average.corrected()
    assert not result.training
    assert not any(parameter.requires_grad for parameter in result.parameters())
    kept = copy.deepcopy(result.weight)
    average.update(net_of(9.0))
    assert torch.equal(result.weight, kept)


def test_the_followed_net_is_left_as_it_was() -> None:
    net = net_of(2.0)
    average = MovingAverage(net, decay=0.5)
    average.update(net)
    average.corrected()
    assert torch.equal(net.weight, net_of(2.0).weight)
    assert net.weight.requires_grad
