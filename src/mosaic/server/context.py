"""What the server works with in a round, beside state and cohort: the round's plan, models, measurement, seeds."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from mosaic.batches import part_of
from mosaic.model_pool import ModelPool
from mosaic.nets.blueprint import Blueprint
from mosaic.privacy.accounting import PrivacyBudget
from mosaic.seeding import SERVER, generator_for, seed_for
from mosaic.training.phases import PhaseRunner


@dataclass(frozen=True)
class RoundPlan:
    """One row of the schedule.

    Attributes:
        round: communication round, from 1.
        rounds: of the whole run.
        clients: who takes part, in increasing order.
        steps: local optimiser steps of each.
        epochs: local passes over the data; when positive they replace ``steps``.
        learning_rate: of local training.
        distillation: the round's place among those after whose upload the server distils, from 1, and how many these
            are; None where it does not distil.
    """

    round: int
    rounds: int
    clients: tuple[int, ...]
    steps: int
    epochs: float
    learning_rate: float
    distillation: tuple[int, int] | None

    @property
    def distils(self) -> bool:
        """Whether the server distils after this round's upload."""
        return self.distillation is not None

    @property
    def last(self) -> bool:
        """Whether no round comes after this one."""
        return self.round == self.rounds

    def share(self, total: int) -> int:
        """Return this round's part of a total that is spread evenly over all rounds.

        >>> [RoundPlan(round, 4, (), 1, 0.0, 0.1, None).share(10) for round in (1, 2, 3, 4)]
        [2, 3, 2, 3]
        """
        return part_of(total, self.round, self.rounds)

    def spent(self, total: int) -> int:
        """Return the sum of the parts of all earlier rounds.

        >>> [RoundPlan(round, 4, (), 1, 0.0, 0.1, None).spent(10) for round in (1, 2, 3, 4)]
        [0, 2, 5, 7]
        """
        return total * (self.round - 1) // self.rounds

    def share_of_distillation(self, total: int) -> int:
        """Return this round's part of a total that is spread evenly over all rounds that distil.

        >>> [RoundPlan(9, 9, (), 1, 0.0, 0.1, place).share_of_distillation(3) for place in (None, (1, 2), (2, 2))]
        [0, 1, 2]
        """
        return 0 if self.distillation is None else part_of(total, *self.distillation)


class Recorder(Protocol):
    """Takes figures for people to look at; nothing can be read back."""

    def curves(self, prefix: str, curves: Mapping[str, Tensor]) -> None:
        """Keep curves of shape ``(steps,)`` under ``prefix/name``, over their own steps."""

    def images(self, name: str, images: Tensor, labels: Tensor | None = None, client: int | None = None) -> None:
        """Keep a picture of generated pixels in ``[0, 1]``, shape ``(B, channels, H, W)``.

        Where their labels are given, shape ``(B,)``, they are shown by class; the client is the generator's owner.
        """

    def heat_map(self, name: str, values: Tensor, rows: str, columns: str) -> None:
        """Keep a picture of a matrix, with what its rows and columns are."""

    def scalar(self, name: str, value: float) -> None:
        """Keep one number of this round."""


class Observe(Protocol):
    """Measures models on the test split and returns nothing, so that no decision rests on it."""

    def __call__(self, module: nn.Module, *stages: str) -> None:
        """Measure a module with output ``(B, C)``, or ``(B, E, C)``, which counts as E models, under these names."""


@dataclass(frozen=True)
class RoundContext:
    """What the server works with in one round.

    Attributes:
        plan: this round's row of the schedule.
        seed: the run's seed.
        pool: which client runs which model.
        phases: trains.
        observe: measures modules on the test split, one way.
        recorder: for curves, samples and weights.
        timed: ``with timed("distillation"):`` books the time of a server phase.
        count_updates: ``count_updates("student", 600)`` books updates of a network that the server has trained;
            ``student`` and ``generator`` are what comparisons hold equal.
        budget: of differential privacy of every client, where there is one.
    """

    plan: RoundPlan
    seed: int
    pool: ModelPool
    phases: PhaseRunner
    observe: Observe
    recorder: Recorder
    timed: Callable[[str], AbstractContextManager[None]]
    count_updates: Callable[[str, int], None]
    budget: PrivacyBudget | None = None

    @property
    def blueprint(self) -> Blueprint:
        """Builds global classifiers."""
        return self.pool.blueprint

    def record_curves(self, prefix: str, curves: Mapping[str, Tensor]) -> None:
        """Record curves of a server phase over their own steps; later distilling rounds have charts of their own."""
        first = self.plan.distillation is None or self.plan.distillation[0] == 1
        self.recorder.curves(prefix if first else f"{prefix}/round_{self.plan.round}", curves)

    def seed_for(self, phase: str) -> int:
        """Return the seed of a server phase of this round."""
        return seed_for(self.seed, self.plan.round, SERVER, phase)

    def generator_for(self, phase: str) -> torch.Generator:
        """Return a CPU generator for a server phase of this round."""
        return generator_for(self.seed, self.plan.round, SERVER, phase)
