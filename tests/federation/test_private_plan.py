"""How many steps a privacy budget is spread over, and which networks can spend it."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from mosaic.errors import MosaicError
from mosaic.federation.job import Job
from mosaic.federation.private import check_private_models
from mosaic.nets import Blueprint
from mosaic.nets.classifier import Classifier, ImageShape
from mosaic.privacy import Privacy, Shares
from mosaic.training.phases import PhaseRunner
from tests.small_runs import same_models

pytest.importorskip("dp_accounting", exc_type=ImportError)


SGD = Privacy(8.0, shares=Shares(0.0, 0.0, 0.0, 1.0), local_training="dp_sgd")


class Remembering(Classifier):
    """Has a layer before its head that may remember something of the images that it is trained on."""

    def __init__(self, image_shape: ImageShape, num_classes: int, layer: Callable[[], nn.Module]) -> None:
        super().__init__(image_shape, num_classes)
        self.layer, self.head = layer(), nn.Linear(image_shape[1] * image_shape[2], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layer(images).flatten(1))
        return logits


class Counting(nn.Module):
    """Counts how often it is called, and so about how many images there are."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        self.calls.add_(self.training)
        return images


def check(layer: Callable[[], nn.Module], phases: PhaseRunner) -> None:
    blueprint = Blueprint(partial(Remembering, layer=layer), (1, 8, 8), 3, (0.3,), (0.3,))
    check_private_models(SGD, same_models(blueprint, 2), phases)


@pytest.mark.parametrize("layer", [partial(nn.InstanceNorm2d, 1, track_running_stats=True), Counting])
def test_layers_that_remember_images_are_refused_before_the_budget_is_spent(
    layer: Callable[[], nn.Module], phases: PhaseRunner
) -> None:
    """Clients would fail in their first step, after it has been paid, or send what nobody has put noise on."""
    with pytest.raises(MosaicError, match=r"model.net: expected gradients of single images.*use layers without"):
        check(layer, phases)


@pytest.mark.parametrize(
    "layer", [partial(nn.InstanceNorm2d, 1), partial(nn.GroupNorm, 1, 1), partial(nn.Dropout, 0.5)]
)
def test_layers_that_remember_nothing_are_taken(layer: Callable[[], nn.Module], phases: PhaseRunner) -> None:
    stream = torch.get_rng_state()
    check(layer, phases)
    assert torch.equal(torch.get_rng_state(), stream)


def test_steps_of_experts_are_planned_too() -> None:
    """Else clients would refuse the last steps that they are asked for."""
    schedule = {"collaborative_rounds": 2, "fine_tune_rounds": 0, "local_steps": 2}
    schedule |= {"expert_steps": 5, "distill_rounds": [1], "learning_rate": 0.1}
    job = SimpleNamespace(privacy=SGD, config={"federation": {"schedule": schedule}})
    assert Job.budget.func(job).mechanisms["training"].steps == 7  # type: ignore[attr-defined]
