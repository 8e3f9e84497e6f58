import pytest
import torch
from torch import Tensor, nn

from mosaic.batches import ShuffledBatches
from mosaic.losses.priors import balanced_class_weights
from mosaic.nets.gates import PriorGate, ResidualGate, TransformerGate
from mosaic.tasks.gating import GatingTask
from mosaic.training.phases import PhaseRunner


def half_right(random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sixty images; the first of two experts is always right and the second, louder, always wrong."""
    labels = torch.randint(3, (60,), generator=random)
    right, wrong = nn.functional.one_hot(labels, 3), nn.functional.one_hot((labels + 1) % 3, 3)
    return torch.stack([3.0 * right, 6.0 * wrong], dim=1), labels


def train(task: GatingTask, phases: PhaseRunner, examples: tuple[Tensor, Tensor], steps: int) -> dict[str, Tensor]:
    return phases.run(task, ShuffledBatches(*examples, batch_size=20, steps=steps, seed=0), seed=0)


def gates() -> list[nn.Module]:
    torch.manual_seed(0)
    base = PriorGate(torch.full((2, 3), 0.5), torch.zeros(2, 3))
    return [TransformerGate(2, 3, dim=8, feedforward=16), ResidualGate(base, 2, 3, hidden=16)]


@pytest.mark.parametrize("which", [0, 1], ids=["transformer", "residual"])
def test_a_gate_learns_whom_to_believe(phases: PhaseRunner, random: torch.Generator, which: int) -> None:
    opinions, labels = half_right(random)
    task = GatingTask(gates()[which], torch.ones(3), learning_rate=1e-2, average_decay=0.9)
    curves = train(task, phases, (opinions, labels), steps=80)
    assert curves["loss"].shape == curves["accuracy"].shape == (80,)
    assert (opinions.mean(1).argmax(1) == labels).float().mean() == 0
    assert (task.trained_gate()(opinions).argmax(1) == labels).float().mean() > 0.95


def test_the_trained_gate_is_the_corrected_average_of_every_step(phases: PhaseRunner, random: torch.Generator) -> None:
    gate = gates()[0]
    task = GatingTask(gate, torch.ones(3), learning_rate=0.0, average_decay=0.99)
    start = {name: tensor.clone() for name, tensor in gate.state_dict().items()}
    train(task, phases, half_right(random), steps=7)
    assert task.average.steps == 7
    for name, tensor in task.trained_gate().state_dict().items():
        torch.testing.assert_close(tensor, start[name])


def test_the_trained_gate_is_frozen_and_in_eval_mode(phases: PhaseRunner, random: torch.Generator) -> None:
    task = GatingTask(gates()[0], torch.ones(3), learning_rate=1e-3, average_decay=0.99)
    train(task, phases, half_right(random), steps=1)
    gate = task.trained_gate()
    assert not any(module.training for module in gate.modules())
    assert not any(parameter.requires_grad for parameter in gate.parameters())


def test_only_what_may_learn_is_given_to_the_optimiser() -> None:
    gate = gates()[1]
    gate.correction[0].requires_grad_(False)
    (group,) = GatingTask(gate, torch.ones(3), 1e-3, 0.9).configure_optimizers().param_groups
    assert {id(p) for p in group["params"]} == {id(p) for p in gate.correction[2].parameters()}
    assert group["lr"] == 1e-3


class Constant(nn.Module):
    """Says the same of everything."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(classes))

    def forward(self, opinions: Tensor) -> Tensor:
        return self.logits.expand(len(opinions), -1)


def test_classes_count_alike_however_many_prototypes_they_sent(phases: PhaseRunner) -> None:
    labels = torch.tensor([0] * 50 + [1] * 2)
    task = GatingTask(Constant(2), balanced_class_weights(labels, 2), learning_rate=0.1, average_decay=0.0)
    phases.run(task, ShuffledBatches(torch.zeros(52, 1, 2), labels, batch_size=52, steps=20, seed=0), seed=0)
    assert task.trained_gate().logits.abs().max() < 0.1
