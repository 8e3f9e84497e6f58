from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mosaic.data.images import Images
from mosaic.federation import evaluation
from mosaic.federation.evaluation import Evaluator
from mosaic.nets.inference import predict

PIXELS = torch.arange(6, dtype=torch.uint8)[:, None, None, None] * 10
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


class Constant(nn.Module):
    """Says the same classes of every image: one model for each class named."""

    def __init__(self, *classes: int) -> None:
        super().__init__()
        self.logits = nn.functional.one_hot(torch.tensor(classes), 3).float()

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), -1, -1) if len(self.logits) > 1 else self.logits.expand(len(images), -1)


@pytest.fixture
def evaluator() -> Evaluator:
    return Evaluator(Images(PIXELS, LABELS), 3, torch.device("cpu"))


def test_one_model_has_one_stage(evaluator: Evaluator) -> None:
    evaluator.observe(Constant(1), "student")
    assert evaluator.stages == {"student": pytest.approx(1 / 3)}


def test_several_models_are_measured_side_by_side() -> None:
    uneven = Evaluator(Images(PIXELS, torch.tensor([0, 0, 0, 1, 1, 2])), 3, torch.device("cpu"))
    uneven.observe(Constant(0, 1, 2), "expert: client 3", "expert: client 5", "plain ensemble")
    assert uneven.stages == {
        "expert: client 3": pytest.approx(3 / 6),
        "expert: client 5": pytest.approx(2 / 6),
        "plain ensemble": pytest.approx(1 / 6),
    }


def test_experts_of_an_earlier_round_are_forgotten_and_nothing_else(evaluator: Evaluator) -> None:
    evaluator.observe(Constant(0), "student")
    evaluator.observe(Constant(0, 1), "expert: client 0", "expert: client 1")
    evaluator.observe(Constant(2, 1), "expert: client 7", "plain ensemble")
    assert evaluator.stages.keys() == {"student", "expert: client 7", "plain ensemble"}


def test_every_model_needs_a_name(evaluator: Evaluator) -> None:
    with pytest.raises(ValueError, match="longer"):
        evaluator.observe(Constant(0, 1, 2), "expert: client 0", "expert: client 1")


def test_measuring_gives_accuracy_loss_and_confusion(evaluator: Evaluator) -> None:
    measurement = evaluator.measure(Constant(1))
    assert measurement.accuracy == pytest.approx(1 / 3)
    assert measurement.confusion.tolist() == [[0, 2, 0], [0, 2, 0], [0, 2, 0]]
    losses = torch.tensor([1 + 2 * torch.e**-1]).log()  # -log softmax of the hit; a miss costs one more
    assert measurement.loss == pytest.approx(float(losses + 2 / 3), abs=1e-6)


@pytest.mark.parametrize("nothing", [float("nan"), -float("inf"), float("inf")])
def test_a_model_that_says_nothing_has_no_image_right(evaluator: Evaluator, nothing: float) -> None:
    """Or a broken one would be right about all images of class 0."""
    broken = Constant(1)
    broken.logits = torch.full((1, 3), nothing)
    evaluator.observe(broken, "student")
    measurement = evaluator.measure(broken)
    own = evaluator.measure_own([(broken, 4)])
    assert [evaluator.stages["student"], measurement.accuracy, own] == [0, 0, 0]
    assert measurement.confusion.sum() == 0


def test_no_more_than_one_batch_of_logits_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred experts and two hundred classes would be gigabytes for a whole test split."""
    kept: list[torch.Size] = []

    def noting(module: nn.Module, images: Tensor, device: torch.device, ask: Callable[[Tensor], Tensor]) -> Tensor:
        kept.append(ask(images.float()).shape)
        return predict(module, images, device, ask=ask)

    monkeypatch.setattr(evaluation, "predict", noting)
    Evaluator(Images(PIXELS, LABELS), 3, torch.device("cpu")).observe(Constant(0, 1), "one", "other")
    assert kept == [(6, 2)]
