"""Networks of one architecture that run as one."""

import copy
from collections.abc import Iterator, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap


class Stack(nn.Module):
    """K networks that differ only in their weights, which are stacked for ``torch.func``.

    Args:
        nets: the networks; their weights are copied.
    """

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__()
        parameters, buffers = stack_module_state(list(nets))
        learns = dict(nets[0].named_parameters())
        first = {id(tensor): name for name, tensor in (*nets[0].named_parameters(), *nets[0].named_buffers())}
        whole = nets[0].state_dict(keep_vars=True)
        self._saved = {name: first[id(tensor)] for name, tensor in whole.items()}  # a tensor may have several names
        self._places = {name: first[id(tensor)] for name, tensor in _own_tensors(nets[0])}
        self._names = {name: name.replace(".", "/") for name in (*parameters, *buffers)}
        linear = {f"{name}.weight" for name, layer in nets[0].named_modules() if isinstance(layer, nn.Linear)}
        for name, tensor in parameters.items():
            stacked = _as_its_gradient(tensor.detach()) if name in linear else tensor.detach()
            self.register_parameter(self._names[name], nn.Parameter(stacked, learns[name].requires_grad))
        for name, tensor in buffers.items():
            self.register_buffer(self._names[name], tensor)
        self._skeleton = [copy.deepcopy(nets[0]).to("meta").train()]  # in a list: its weights are not this module's

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all networks."""
        self._skeleton[0].train(mode)
        return super().train(mode)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the output of every network, such as logits ``(K, B, C)``.

        Args:
            inputs: of each network, such as pixels ``(K, B, channels, H, W)``.
        """
        weights = {name: getattr(self, ours) for name, ours in self._names.items()}

        def one(own: dict[str, Tensor], *given: Tensor) -> Tensor:
            everywhere = {place: own[name] for place, name in self._places.items()}
            answer: Tensor = functional_call(self._skeleton[0], everywhere, given, tie_weights=False)
            return answer

        answers: Tensor = vmap(one, randomness="different")(weights, *inputs)
        return answers

    def parameters_of(self, k: int) -> list[Tensor]:
        """Return the parameters of network k, in its order."""
        return [parameter[k] for parameter in self.parameters()]

    @torch.no_grad()
    def state_of(self, k: int) -> dict[str, Tensor]:
        """Return a copy of the weights of network k under its own names, on the CPU."""
        whole = torch.contiguous_format
        return {
            name: getattr(self, self._names[first])[k].clone(memory_format=whole).cpu()
            for name, first in self._saved.items()
        }


def _own_tensors(net: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters and buffers of every module; modules may share one, and a module may have several names."""
    for prefix, module in net.named_modules():
        yield from module.named_parameters(prefix, recurse=False, remove_duplicate=False)
        yield from module.named_buffers(prefix, recurse=False, remove_duplicate=False)


def _as_its_gradient(weight: Tensor) -> Tensor:
    """Return the weight ``(K, out, in)`` of linear layers with the memory layout in which its gradient comes.

    The backward pass of a batched matrix product yields the gradient of the transposed weights. Where the layouts
    differ, PyTorch copies every gradient at every step, which took most of the time of stacked linear layers.
    """
    return weight.transpose(1, 2).contiguous().transpose(1, 2)
