from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import LBFGS, SGD

from mosaic.client.objectives import LocalContext, LocalObjective
from mosaic.errors import MosaicError
from mosaic.federation.trial_step import take_trial_step
from mosaic.nets import Blueprint
from mosaic.nets.classifier import Classifier
from mosaic.training.phases import PhaseRunner
from tests.cases import for_each

AVERAGING = {
    "class_path": "lightning.pytorch.callbacks.StochasticWeightAveraging",
    "init_args": {"swa_lrs": 0.1},
}
"""Works where there is one optimiser."""


def watched(*callbacks: dict[str, object]) -> PhaseRunner:
    return PhaseRunner({"accelerator": "cpu", "devices": 1, "callbacks": list(callbacks)})


def test_what_works_passes(blueprint: Blueprint) -> None:
    take_trial_step(watched(AVERAGING), blueprint, partial(SGD, lr=1.0), 0.1)


def test_a_callback_that_takes_one_optimiser_is_refused_where_there_are_two(blueprint: Blueprint) -> None:
    with pytest.raises(MosaicError, match=r"trainer: a blank step .* 1 `optimizer`"):
        take_trial_step(watched(AVERAGING), blueprint, partial(SGD, lr=1.0), 0.1, two_optimizers=True)


def test_an_optimiser_that_cannot_take_these_parameters(blueprint: Blueprint) -> None:
    with pytest.raises(MosaicError, match=r"model\.optimizer: a blank step .*closure"):
        take_trial_step(watched(), blueprint, LBFGS, 0.1)


class Given(LocalObjective):
    """Gives what the test says."""

    def __init__(self, loss: Callable[..., Any]) -> None:
        self.loss = loss

    def bind(self, context: LocalContext) -> Callable[..., Any]:
        assert context.class_counts.sum() > 0, "somebody who trains has images"
        return self.loss


def hardest(net: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(net(images), labels, reduction="none").topk(8).values.mean()


def between_classes(net: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    features, others = net.features(images), labels[:, None] != labels
    one, other = others.nonzero(as_tuple=True)
    return (features[one] - features[other]).square().sum() if len(one) else torch.zeros(())


@for_each("loss", [hardest, between_classes])
def test_an_objective_meets_a_batch_as_clients_have_them(loss: Any, blueprint: Blueprint) -> None:
    take_trial_step(watched(), blueprint, partial(SGD, lr=1.0), 0.1, objective=Given(loss), batch_size=16)


@for_each(
    ("loss", "told"),
    [
        (lambda net, images, labels: cross_entropy(net(images), labels, reduction="none"), "only for scalar outputs"),
        (lambda net, images, labels: cross_entropy(net(images), labels).item(), "'float' object has no attribute"),
        (lambda net, images: net(images).sum(), "positional argument"),
        (lambda net, images, labels: torch.zeros(()), "does not require grad"),
    ],
)
def test_an_objective_of_ones_own_is_tried(loss: Any, told: str, blueprint: Blueprint) -> None:
    with pytest.raises(MosaicError, match=f"algorithm.objective: expected Given.bind to return a loss .*{told}"):
        take_trial_step(watched(), blueprint, partial(SGD, lr=1.0), 0.1, objective=Given(loss))
