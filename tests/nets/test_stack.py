"""Networks that run as one answer as they would alone, and train without copies of gradients."""

import pytest
import torch
from torch import nn

from mosaic.nets.mlp import MLP
from mosaic.nets.stack import Stack


def _nets() -> list[MLP]:
    return [MLP((1, 4, 4), 3, width=5) for _ in range(4)]


def test_every_network_of_a_stack_answers_as_it_would_alone() -> None:
    nets, images = _nets(), torch.rand(4, 6, 1, 4, 4)
    alone = torch.stack([net.train()(own) for net, own in zip(nets, images, strict=True)])
    torch.testing.assert_close(Stack(nets)(images), alone)


def test_weights_come_back_as_they_went_in() -> None:
    nets = _nets()
    stack = Stack(nets)
    for k, net in enumerate(nets):
        for name, tensor in stack.state_of(k).items():
            assert torch.equal(tensor, net.state_dict()[name])
            assert tensor.is_contiguous()


class Tied(nn.Module):
    """A layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.all = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.first = self.all[0]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.all(inputs)
        return outputs


def test_a_tensor_comes_back_under_all_its_names() -> None:
    nets = [Tied(), Tied()]
    states = [Stack(nets).state_of(k) for k in range(2)]
    for net, state in zip(nets, states, strict=True):
        assert list(state) == list(net.state_dict())
        assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


def test_gradients_of_matrices_have_the_layout_of_their_weights() -> None:
    stack = Stack([nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3)) for _ in range(4)])
    weights = [weight for weight in stack.parameters() if weight.dim() == 3]
    gradients = torch.autograd.grad(stack(torch.rand(4, 6, 7)).sum(), weights)
    assert [gradient.stride() for gradient in gradients] == [weight.stride() for weight in weights]


def test_gradients_of_embeddings_have_the_layout_of_their_weights() -> None:
    stack = Stack([nn.Embedding(6, 5) for _ in range(4)])
    (weight,) = stack.parameters()
    (gradient,) = torch.autograd.grad(stack(torch.arange(12).view(4, 3) % 6).sum(), [weight])
    assert gradient.stride() == weight.stride()


class Shared(nn.Module):
    """Two layers and two normalisations that share their tensors."""

    def __init__(self, frozen: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.first.weight.requires_grad_(not frozen)
        self.register_buffer("scale", torch.rand(4))
        self.inner = nn.Module()
        self.inner.register_buffer("scale", self.scale)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.second(self.first(inputs) * self.scale) * self.inner.scale
        return outputs


@pytest.mark.parametrize("frozen", [True, False])
def test_modules_may_share_their_tensors(frozen: bool) -> None:
    """A module whose tensor was not replaced would answer with whatever is in memory."""
    nets, inputs = [Shared(frozen) for _ in range(3)], torch.rand(3, 5, 4)
    stack = Stack(nets)
    alone = torch.stack([net(own) for net, own in zip(nets, inputs, strict=True)])
    answers = stack(inputs)
    torch.testing.assert_close(answers, alone)
    if not frozen:
        answers.sum().backward()
        alone.sum().backward()
        (weight,) = stack.parameters()
        torch.testing.assert_close(weight.grad, torch.stack([net.first.weight.grad for net in nets]))
