"""What teachers say that they need, and the gates that they form."""

import math
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn

from mosaic.algorithms import Mosaic
from mosaic.errors import MosaicError
from mosaic.nets.gates import FusionGate, MeanGate, PriorGate
from mosaic.server.experts import Experts
from mosaic.tasks.distillation import DistillationSettings
from mosaic.teachers import (
    Evidence,
    Fusion,
    Labels,
    Mean,
    Owner,
    Prior,
    Prototypes,
    Residual,
    TeacherFactory,
    Transformer,
)
from tests.cases import for_each
from tests.small_runs import pool_of_kind

ALL = [Fusion, Labels, Mean, Owner, Prior, Prototypes, Residual, Transformer]


@pytest.fixture
def pool() -> Experts:
    authority = torch.tensor([[0.75, 0.5, 0.0], [0.25, 0.5, 1.0]])
    prior = torch.tensor([[0.5, 0.4, 0.1], [0.2, 0.3, 0.5]])
    return Experts([], authority, prior, torch.tensor([[6.0, 5.0, 0.0], [2.0, 5.0, 4.0]]), ["a", "b"])


def evidence(prior_removed: bool = False) -> Evidence:
    """As much as gates in closed form look at."""
    return cast(Evidence, SimpleNamespace(log_prior=lambda experts: experts.log_prior(prior_removed)))


@for_each(("teacher", "expected"), [(Fusion(), FusionGate), (Prior(), PriorGate), (Mean(), MeanGate)])
def test_gates_in_closed_form_have_nothing_to_train(pool: Experts, teacher: Any, expected: type) -> None:
    gate = teacher.gate(pool, evidence())
    assert type(gate) is expected
    assert not list(gate.parameters())


@for_each("teacher", [Residual(), Transformer(dim=8)])
def test_trained_gates_have_weights(pool: Experts, teacher: Any) -> None:
    assert list(teacher.untrained(pool, evidence()).parameters())


def start_of(teacher: Prior | Residual, pool: Experts, prior_removed: bool = False) -> nn.Module:
    said = evidence(prior_removed)
    return teacher.gate(pool, said) if isinstance(teacher, Prior) else teacher.untrained(pool, said)


@for_each("kind", [Prior, Residual])
def test_gates_start_from_authority_and_prior(pool: Experts, kind: Any) -> None:
    opinions = torch.tensor([[[0.5, 0.4, 0.1], [0.4, 0.1, 0.5]]]).log()
    expected = [0.25 * math.log(2), 0.5 * math.log(1 / 3), 0.0]
    assert start_of(kind(), pool)(opinions)[0].tolist() == pytest.approx(expected, abs=1e-6)


@for_each("kind", [Prior, Residual])
def test_probabilities_are_averaged_where_asked_to(pool: Experts, kind: Any) -> None:
    opinions = torch.tensor([[[0.5, 0.4, 0.1], [0.4, 0.1, 0.5]]]).log()
    expected = [0.75 * 0.5 + 0.25 * 0.4, 0.5 * 0.4 + 0.5 * 0.1, 0.5]
    assert start_of(kind(probabilities=True), pool)(opinions)[0].exp().tolist() == pytest.approx(expected, rel=1e-5)


def test_a_prior_that_is_removed_already_is_not_removed_again(pool: Experts) -> None:
    opinions = torch.randn(5, 2, 3).log_softmax(-1)
    torch.testing.assert_close(start_of(Prior(), pool, prior_removed=True)(opinions)[:, 2], opinions[:, 1, 2])


@for_each(
    ("teacher", "whole", "unable"),
    [
        *((each(), True, True) for each in (Fusion, Prior, Residual, Transformer, Mean, Owner, Labels)),
        (Prototypes(), True, False),
        *((each(heads_only=True), False, False) for each in (Fusion, Prior, Residual, Transformer, Mean)),
        *((each(fit_on_prototypes=True), False, False) for each in (Residual, Transformer)),
    ],
)
def test_prototypes_need_clients_that_can_run_the_global_network_and_heads_those_that_train_it(
    teacher: TeacherFactory, whole: bool, unable: bool
) -> None:
    mosaic = Mosaic(teacher=teacher, distillation=DistillationSettings(origin_weight=1.0))
    mosaic.check_pool(pool_of_kind("same"))
    for kind in ("widths", "architectures"):
        for evaluate_whole, fits in ((True, whole), (False, unable)):
            pool = pool_of_kind(kind, evaluate_whole=evaluate_whole)
            heads = rf"algorithm\.teacher: expected clients that all train .* {type(teacher).__name__}"
            said = r"clients\.evaluate_whole: expected true" if whole else heads
            with nullcontext() if fits else pytest.raises(MosaicError, match=said):
                mosaic.check_pool(pool)


@for_each(
    ("teacher", "whole", "unable"),
    [
        (Fusion(), True, False),
        (Prototypes(), True, True),
        *((each(fit_on_prototypes=True), True, True) for each in (Residual, Transformer)),
        *((each(), False, False) for each in (Prior, Residual, Transformer, Mean, Owner, Labels)),
    ],
)
def test_prototypes_are_asked_for_where_they_are_used(teacher: TeacherFactory, whole: bool, unable: bool) -> None:
    pools = [pool_of_kind(kind) for kind in ("same", "widths", "architectures")]
    assert [teacher.needs_prototypes(pool) for pool in pools] == [whole] * 3
    assert teacher.needs_prototypes(pool_of_kind("widths", evaluate_whole=False)) == unable


@for_each(
    ("teacher", "conditional", "unconditional"),
    [
        (Owner(), True, True),
        *((each(), False, True) for each in (Residual, Transformer)),
        *((each(fit_on_prototypes=True), False, False) for each in (Residual, Transformer)),
        *((each(), False, False) for each in (Fusion, Prior, Mean, Prototypes, Labels)),
    ],
)
def test_owners_are_needed_where_they_judge(teacher: TeacherFactory, conditional: bool, unconditional: bool) -> None:
    assert (teacher.needs_owners(True), teacher.needs_owners(False)) == (conditional, unconditional)


@for_each("dim", [0, 30])
def test_a_width_that_heads_cannot_share_is_refused(dim: int) -> None:
    with pytest.raises(MosaicError, match=rf"^algorithm\.teacher\.dim: expected .*, got {dim}$"):
        Transformer(dim=dim)
