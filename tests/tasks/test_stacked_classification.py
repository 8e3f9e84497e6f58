"""Which optimisers treat networks in a stack as they treat each alone, and what a stack cannot answer."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Optimizer

from mosaic.tasks.stacked_classification import _Member, takes_numbers_singly
from tests.cases import for_each

SHAPES = [torch.Size([6, 4]), torch.Size([6]), torch.Size([3, 2, 3, 3])]


def without_decay_of_biases(parameters: Iterable[nn.Parameter]) -> Optimizer:
    """As many training scripts have it: biases are told by their one dimension."""
    given = list(parameters)
    matrices, others = [p for p in given if p.ndim > 1], [p for p in given if p.ndim <= 1]
    return SGD([{"params": matrices, "weight_decay": 1e-4}, {"params": others, "weight_decay": 0.0}])


class Normalised(SGD):
    """Divides every gradient by its norm."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for each in group["params"]:
                each.grad /= each.grad.norm()
        super().step()


class Noisy(SGD):
    """Adds noise to every gradient."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for each in group["params"]:
                each.grad += torch.randn_like(each)
        super().step()


@for_each("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "NAdam", "RAdam", "Adamax", "Rprop"])
def test_optimisers_that_take_numbers_singly(name: str) -> None:
    before = torch.random.get_rng_state()
    assert takes_numbers_singly(getattr(torch.optim, name), SHAPES)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_momentum_and_decay_are_of_every_number() -> None:
    assert takes_numbers_singly(lambda given: SGD(given, momentum=0.9, nesterov=True, weight_decay=0.1), SHAPES)


@for_each("optimizer", [without_decay_of_biases, Normalised, Noisy, torch.optim.Adafactor])
def test_optimisers_that_do_not(optimizer: Any) -> None:
    assert not takes_numbers_singly(optimizer, SHAPES)


def test_what_cannot_be_tried_is_left_to_the_lockstep() -> None:
    """As of an optimiser whose kernels are made for GPUs alone; a lockstep that fails says why."""
    assert takes_numbers_singly(lambda given: torch.optim.Adam(given, capturable=True), SHAPES)


def test_a_network_in_a_stack_answers_once_about_its_batch() -> None:
    pixels, nothing = torch.rand(2, 1, 4, 4), object()
    member = _Member(torch.rand(2, 3), pixels, nothing, 0)  # type: ignore[arg-type]
    member(pixels)
    with pytest.raises(RuntimeError, match="twice about its batch"):
        member(pixels)
