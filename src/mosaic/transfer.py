"""Send tensors and networks to the device where they are needed, without waiting for it."""

from itertools import chain
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

Sent = TypeVar("Sent", bound=Tensor | nn.Module)
Net = TypeVar("Net", bound=nn.Module)


def send(what: Sent, device: torch.device) -> Sent:
    """Return a tensor on a device, or move a network there, while the device goes on with what it has to do.

    An ordinary copy to a GPU waits until all that was asked of it before is done, and a step has a dozen of them. This
    one has read its source when it returns. The way back to the CPU always waits, since the values are wanted.
    """
    return cast(Sent, what.to(device, non_blocking=device.type != "cpu"))


def bring(net: Net, device: torch.device) -> Net:
    """Return a network on a device, moved there unless it lies there already."""
    return net if lies_on(net, device) else send(net, device)


def lies_on(net: nn.Module, device: torch.device) -> bool:
    """Whether every tensor of a network is on a device; asking is a tenth of the price of moving what is there."""
    return all(tensor.device == device for tensor in chain(net.parameters(), net.buffers()))
