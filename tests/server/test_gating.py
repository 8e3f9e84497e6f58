import math
from collections import Counter
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from mosaic.errors import MosaicError
from mosaic.messages import PrototypeReply
from mosaic.nets import Blueprint
from mosaic.nets.gates import FusionGate, MeanGate, PriorGate, ResidualGate, TransformerGate
from mosaic.server.experts import ExpertPool
from mosaic.server.gating import (
    CONTROLS,
    FitSettings,
    GateKind,
    GateSettings,
    build_gate,
    fit_prototype_classifier,
    join_prototypes,
    train_gate,
)
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
    train_gate(gate, inputs, torch.arange(examples) % 3, 3, settings, phases, seed=0)
    assert min(Counter(gate.seen)[example] for example in range(examples)) >= settings.epochs


def trained(phases: PhaseRunner, seed: int) -> nn.Module:
    torch.manual_seed(0)
    gate = TransformerGate(2, 3, dim=8, feedforward=16)
    labels = torch.arange(12) % 3
    opinions = torch.stack([nn.functional.one_hot(labels, 3).float(), torch.zeros(12, 3)], dim=1)
    return train_gate(gate, opinions, labels, 3, SHORT, phases, seed)[0]


def test_the_seed_decides_what_a_gate_becomes(phases: PhaseRunner) -> None:
    first, again, other = (trained(phases, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_trained_gate_is_frozen(phases: PhaseRunner) -> None:
    gate = trained(phases, seed=1)
    assert not gate.training
    assert not any(parameter.requires_grad for parameter in gate.parameters())


@pytest.fixture
def pool() -> ExpertPool:
    authority = torch.tensor([[0.75, 0.5, 0.0], [0.25, 0.5, 1.0]])
    prior = torch.tensor([[0.5, 0.4, 0.1], [0.2, 0.3, 0.5]])
    return ExpertPool([], authority, prior, torch.tensor([[6.0, 5.0, 0.0], [2.0, 5.0, 4.0]]), ["a", "b"])


@for_each(
    ("kind", "expected"),
    [
        ("fusion", FusionGate),
        ("prior", PriorGate),
        ("residual", ResidualGate),
        ("transformer", TransformerGate),
        *((control, MeanGate) for control in CONTROLS),
    ],
)
def test_the_kind_names_the_gate(pool: ExpertPool, kind, expected: type) -> None:
    assert type(build_gate(GateSettings(kind=kind, dim=8), pool, pool.prior.log())) is expected


@pytest.mark.parametrize("kind", ["prior", "residual"])
def test_untrained_gates_start_from_authority_and_prior(pool: ExpertPool, kind) -> None:
    gate = build_gate(GateSettings(kind=kind, dim=8), pool, pool.prior.log())
    opinions = torch.tensor([[[0.5, 0.4, 0.1], [0.4, 0.1, 0.5]]]).log()
    expected = [0.25 * math.log(2), 0.5 * math.log(1 / 3), 0.0]
    assert gate(opinions)[0].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", ["prior", "residual"])
def test_probabilities_are_averaged_where_asked_to(pool: ExpertPool, kind) -> None:
    gate = build_gate(GateSettings(kind=kind, dim=8, probabilities=True), pool, pool.prior.log())
    opinions = torch.tensor([[[0.5, 0.4, 0.1], [0.4, 0.1, 0.5]]]).log()
    expected = [0.75 * 0.5 + 0.25 * 0.4, 0.5 * 0.4 + 0.5 * 0.1, 0.5]
    assert gate(opinions)[0].exp().tolist() == pytest.approx(expected, rel=1e-5)


@for_each("kind", get_args(GateKind))
def test_only_gates_with_weights_of_their_own_are_trained(pool: ExpertPool, kind) -> None:
    settings = GateSettings(kind=kind, dim=8)
    assert settings.trained == bool(list(build_gate(settings, pool, pool.prior.log()).parameters()))


@for_each("kind", get_args(GateKind))
def test_only_what_is_trained_can_be_trained_elsewhere(kind) -> None:
    if kind in ("transformer", "residual"):
        assert GateSettings(kind=kind, space="crossed").trained
        return
    with pytest.raises(MosaicError, match=rf"^algorithm\.gate\.space: crossed .*not for {kind}: use .*$"):
        GateSettings(kind=kind, space="crossed")


@for_each("setting", ["epochs", "batch_size", "learning_rate", "dim"])
def test_what_cannot_be_trained_is_refused(setting: str) -> None:
    with pytest.raises(MosaicError, match=rf"^algorithm\.gate\.{setting}: expected a number above 0, got 0$"):
        GateSettings(**{setting: 0})


@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_an_average_that_never_moves_is_refused(value: float) -> None:
    with pytest.raises(MosaicError, match=rf"^algorithm\.gate\.average_decay: expected .*, got {value}$"):
        GateSettings(average_decay=value)
    with pytest.raises(MosaicError, match=rf"^fitting to prototypes\.average_decay: expected .*, got {value}$"):
        FitSettings(average_decay=value)


def test_a_width_that_heads_cannot_share_is_refused() -> None:
    with pytest.raises(MosaicError, match=r"^algorithm\.gate\.dim: expected a multiple of 4, got 30$"):
        GateSettings(dim=30)


def test_what_is_not_taken_out_is_left_in(pool: ExpertPool) -> None:
    gate = build_gate(GateSettings(kind="prior"), pool, torch.zeros_like(pool.prior))
    opinions = torch.randn(5, 2, 3).log_softmax(-1)
    torch.testing.assert_close(gate(opinions)[:, 2], opinions[:, 1, 2])


def prototypes(client: int, labels: list[int], features: int = 2) -> PrototypeReply:
    count = len(labels)
    values = 10.0 * client + torch.arange(float(count * features)).reshape(count, features)
    return PrototypeReply(client, values, torch.tensor(labels, dtype=torch.long), torch.full((count,), 5))


def test_prototypes_are_joined_in_client_order_even_around_an_empty_reply() -> None:
    features, labels = join_prototypes([prototypes(0, [0, 2]), prototypes(1, []), prototypes(2, [1])])
    assert labels.tolist() == [0, 2, 1]
    assert features.tolist() == [[0, 1], [2, 3], [20, 21]]


def test_no_prototypes_at_all_are_refused_with_a_way_out() -> None:
    with pytest.raises(MosaicError, match=r"prototypes\.min_count.*lower it, let more clients take part .*, or use"):
        join_prototypes([prototypes(0, []), prototypes(1, [])])


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
