"""What a network is given, and whether it has changed."""

import torch
from torch import Tensor, nn


def copy_of(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def unchanged(net: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def inputs_of(net: nn.Module) -> list[tuple[Tensor, ...]]:
    """What the net is given from now on."""
    seen: list[tuple[Tensor, ...]] = []
    net.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(tensor.detach().clone() for tensor in inputs)))
    return seen
