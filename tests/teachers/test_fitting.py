from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from mosaic.errors import MosaicError
from mosaic.messages import PrototypeReply
from mosaic.nets import Blueprint
from mosaic.nets.gates import TransformerGate
from mosaic.teachers.fitting import FitSettings, MissingPrototypesError, fit, fit_prototype_classifier, join_prototypes
from mosaic.training.phases import PhaseRunner
from tests.cases import for_each

SHORT = FitSettings(epochs=3, batch_size=4, learning_rate=1e-3)


class Witness(nn.Module):
    """A gate that notes which examples it is shown; each example is its own number."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.seen: list[int] = []

    def forward(self, opinions: Tensor) -> Tensor:
        self.seen += opinions[:, 0, 0].int().tolist()
        return self.scale * opinions.mean(1)


@for_each(("examples", "batch_size"), [(10, 4), (8, 4), (3, 64), (1, 4)])
def test_every_epoch_is_a_full_pass(phases: PhaseRunner, examples: int, batch_size: int) -> None:
    gate = Witness()
    inputs = torch.arange(float(examples))[:, None, None].expand(examples, 2, 3)
    settings = replace(SHORT, batch_size=batch_size)
    fit(gate, inputs, torch.arange(examples) % 3, 3, settings, phases, seed=0)
    assert min(Counter(gate.seen)[example] for example in range(examples)) >= settings.epochs
    assert len(gate.seen) < 2 * settings.epochs * max(examples, 2)


def trained(phases: PhaseRunner, seed: int) -> nn.Module:
    torch.manual_seed(0)
    gate = TransformerGate(2, 3, dim=8, feedforward=16)
    labels = torch.arange(12) % 3
    opinions = torch.stack([nn.functional.one_hot(labels, 3).float(), torch.zeros(12, 3)], dim=1)
    return fit(gate, opinions, labels, 3, SHORT, phases, seed)[0]


def test_the_seed_decides_what_a_gate_becomes(phases: PhaseRunner) -> None:
    first, again, other = (trained(phases, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_trained_gate_is_frozen(phases: PhaseRunner) -> None:
    gate = trained(phases, seed=1)
    assert not gate.training
    assert not any(parameter.requires_grad for parameter in gate.parameters())


@for_each("setting", ["epochs", "batch_size", "learning_rate"])
def test_what_cannot_be_trained_is_refused(setting: str) -> None:
    with pytest.raises(MosaicError, match=rf"^fitting\.{setting}: expected a number above 0, got 0$"):
        FitSettings(**{setting: 0})


@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_an_average_that_never_moves_is_refused(value: float) -> None:
    with pytest.raises(MosaicError, match=rf"^fitting\.average_decay: expected .*, got {value}$"):
        FitSettings(average_decay=value)


def prototypes(client: int, labels: list[int], features: int = 2) -> PrototypeReply:
    count = len(labels)
    values = 10.0 * client + torch.arange(float(count * features)).reshape(count, features)
    return PrototypeReply(client, values, torch.tensor(labels, dtype=torch.long), torch.full((count,), 5))


def test_prototypes_are_joined_in_client_order_even_around_an_empty_reply() -> None:
    features, labels = join_prototypes([prototypes(0, [0, 2]), prototypes(1, []), prototypes(2, [1])])
    assert labels.tolist() == [0, 2, 1]
    assert features.tolist() == [[0, 1], [2, 3], [20, 21]]


@pytest.mark.parametrize("replies", [[], [prototypes(0, []), prototypes(1, [])]], ids=["nobody", "some without any"])
def test_no_prototypes_at_all_are_missed(replies: list[PrototypeReply]) -> None:
    with pytest.raises(MissingPrototypesError):
        join_prototypes(replies)


def clustered(random: torch.Generator, width: int) -> tuple[Tensor, Tensor]:
    """Features on very different scales, as a trunk gives them; class 1 is absent."""
    labels = torch.tensor([0, 2]).repeat_interleave(12)
    features = torch.randn(24, width, generator=random) + 3 * labels[:, None]
    return features * 10.0 ** torch.arange(width).remainder(5), labels


def test_a_meta_model_knows_its_prototypes(blueprint: Blueprint, phases: PhaseRunner, random: torch.Generator) -> None:
    trunk = blueprint.build(blueprint.initial(0))
    features, labels = clustered(random, trunk.head.in_features)
    trunk.features = lambda images: images  # type: ignore[method-assign]
    settings = replace(SHORT, epochs=30, learning_rate=1e-2)
    meta, curves = fit_prototype_classifier(trunk, features, labels, settings, phases, seed=0)
    assert torch.equal(meta(features).argmax(1), labels)
    assert curves["loss"][-6:].mean() < curves["loss"][:6].mean()


def test_a_feature_that_never_varies_does_no_harm(
    blueprint: Blueprint, phases: PhaseRunner, random: torch.Generator
) -> None:
    trunk = blueprint.build(blueprint.initial(0))
    features, labels = clustered(random, trunk.head.in_features)
    features[:, 0] = 7.0
    meta, _ = fit_prototype_classifier(trunk, features, labels, SHORT, phases, seed=0)
    assert meta(torch.rand(4, 1, 8, 8)).isfinite().all()
    assert meta.linear_part().head.weight[:, 0].tolist() == [0.0] * 3
    other = features.clone()
    other[:, 0] = -100.0
    meta.trunk.features = lambda images: images  # type: ignore[method-assign]
    assert torch.equal(meta(features), meta(other)), "whatever other images make of it"


class Bias(nn.Module):
    """Says the same of all examples."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(2))

    def forward(self, examples: Tensor) -> Tensor:
        return self.bias.expand(len(examples), 2)


def test_classes_count_alike_however_many_examples_they_have(phases: PhaseRunner) -> None:
    labels = torch.tensor([0] * 30 + [1] * 10)
    settings = FitSettings(epochs=60, batch_size=40, learning_rate=0.05)
    found, _ = fit(Bias(), torch.zeros(40, 1, 2), labels, 2, settings, phases, 0)
    assert found.bias.softmax(0).tolist() == pytest.approx([0.5, 0.5], abs=0.02)
