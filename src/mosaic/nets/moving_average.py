"""A bias-corrected exponential moving average of a network."""

import copy

import torch
from torch import nn


class MovingAverage(nn.Module):
    """Average a network's parameters over its training: ``e_t = decay e_(t-1) + (1 - decay) theta_t`` from ``e_0 = 0``.

    The corrected average is ``e_t / (1 - decay^t)``: without the correction ``e_0`` would still have a weight of 22 %
    after 150 steps at 0.99. Buffers are copied, not averaged.

    Args:
        net: the network to average.
        decay: in ``[0, 1)``; 0 keeps the last weights.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.steps = 0
        self.average = copy.deepcopy(net).requires_grad_(False)
        for parameter in self.average.parameters():
            parameter.zero_()

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Add the network's current weights."""
        self.steps += 1
        averages = [parameter.detach() for parameter in self.average.parameters()]
        torch._foreach_lerp_(averages, [parameter.detach() for parameter in net.parameters()], 1 - self.decay)
        copies = list(self.average.buffers())
        if copies:
            torch._foreach_copy_(copies, list(net.buffers()))

    @torch.no_grad()
    def corrected(self) -> nn.Module:
        """Return a frozen copy of the network with the averaged weights, in eval mode, after at least one update."""
        net = copy.deepcopy(self.average).eval()
        for parameter in net.parameters():
            parameter.div_(1 - self.decay**self.steps)
        return net
