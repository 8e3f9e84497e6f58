"""The schedule of rounds, the same for all algorithms."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from mosaic.batches import steps_for
from mosaic.errors import (
    LARGEST_COUNT,
    MosaicError,
    is_number,
    require_at_least_zero,
    require_count,
    require_positive,
    require_whole,
)
from mosaic.seeding import SERVER, generator_for
from mosaic.server.context import RoundPlan

_KEY = "federation.schedule"


@dataclass(frozen=True)
class Schedule:
    """Collaborative rounds, then fine-tuning rounds; some rounds form experts and distil.

    Every local step counts in every comparison: an algorithm that forms no experts takes ``expert_steps`` all the same.

    Attributes:
        collaborative_rounds: rounds at ``learning_rate`` (released: 300 for CIFAR-10, 1000 for CIFAR-100).
        local_steps: optimiser steps of each client in a round (released: 10 and 20).
        local_epochs: passes over a client's images; when positive they replace ``local_steps``.
        expert_steps: steps of the uploads that form experts; as ``local_steps`` when not given (released). After few
            small steps from one model the experts hardly differ.
        distill_rounds: rounds after which the server distils; after the last collaborative one when not given.
        fine_tune_rounds: rounds after the collaborative ones (released: 80).
        learning_rate: of local training in collaborative rounds, for SGD; Adam takes about a hundredth (released: 0.01;
            clients' validation images of digits, MNIST, Fashion-MNIST and CIFAR-10 chose 0.1).
        fine_tune_learning_rate: of local training in fine-tuning rounds (released: 1e-4; they chose 0.01), whatever the
            algorithm: an average gains from a small last rate as well as a student does.
        participation: share of the clients that take part in a round, in ``(0, 1]``.
    """

    collaborative_rounds: int = 10
    local_steps: int = 20
    local_epochs: float = 0.0
    expert_steps: int | None = None
    distill_rounds: list[int] | None = None
    fine_tune_rounds: int = 3
    learning_rate: float = 0.1
    fine_tune_learning_rate: float = 0.01
    participation: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot be run.

        Raises:
            MosaicError: a value is out of its range.
        """
        for field in fields(self):
            object.__setattr__(self, field.name, _plain(getattr(self, field.name)))
        require_count(_KEY, collaborative_rounds=self.collaborative_rounds, local_steps=self.local_steps)
        if self.expert_steps is not None:
            require_count(_KEY, expert_steps=self.expert_steps)
        require_whole(_KEY, fine_tune_rounds=self.fine_tune_rounds)
        require_at_least_zero(
            _KEY,
            fine_tune_rounds=self.fine_tune_rounds,
            local_epochs=self.local_epochs,
            fine_tune_learning_rate=self.fine_tune_learning_rate,
        )
        require_positive(_KEY, learning_rate=self.learning_rate)
        if self.local_epochs > LARGEST_COUNT:
            raise MosaicError(f"{_KEY}.local_epochs: expected at most {LARGEST_COUNT:,}, got {self.local_epochs}")
        if not is_number(self.participation) or not 0 < self.participation <= 1:
            raise MosaicError(f"{_KEY}.participation: expected a share in (0, 1], got {self.participation}")
        if self.distill_rounds is not None and not isinstance(self.distill_rounds, Iterable):
            raise MosaicError(f"{_KEY}.distill_rounds: expected a list, got {self.distill_rounds!r}")
        for place, each in enumerate(self.distill_rounds or ()):
            require_whole(_KEY, **{f"distill_rounds[{place}]": each})
        outside = [r for r in self.distills_after if not 1 <= r <= self.rounds]
        if outside:
            raise MosaicError(f"{_KEY}.distill_rounds: expected rounds in 1..{self.rounds}, got {outside}")

    @property
    def rounds(self) -> int:
        """Number of rounds."""
        return self.collaborative_rounds + self.fine_tune_rounds

    @property
    def distills_after(self) -> list[int]:
        """Rounds after which the server distils, in order."""
        return [self.collaborative_rounds] if self.distill_rounds is None else sorted(set(self.distill_rounds))

    def plan(self, round: int, num_clients: int, seed: int, present: Collection[int] | None = None) -> RoundPlan:
        """Return the row of one round.

        Args:
            round: from 1.
            num_clients: N.
            seed: the run's seed; it decides who takes part.
            present: clients that can be asked now; all of them when not given.
        """
        distilling = self.distills_after
        distils = round in distilling
        tunes = round > self.collaborative_rounds
        return RoundPlan(
            round=round,
            rounds=self.rounds,
            clients=self._participants(round, num_clients, seed, present),
            steps=self.expert_steps if distils and self.expert_steps else self.local_steps,
            epochs=0.0 if distils and self.expert_steps else self.local_epochs,
            learning_rate=self.fine_tune_learning_rate if tunes else self.learning_rate,
            distillation=(distilling.index(round) + 1, len(distilling)) if distils else None,
        )

    def _participants(
        self, round: int, num_clients: int, seed: int, present: Collection[int] | None
    ) -> tuple[int, ...]:
        """Return the first clients of a drawn order who are there, filled up with absent ones, who will be missing."""
        count = count_participants(self.participation, num_clients)
        order = torch.randperm(num_clients, generator=generator_for(seed, round, SERVER, "participants")).tolist()
        if present is not None:
            order.sort(key=lambda client: client not in present)
        return tuple(sorted(order[:count]))


def centralised_plan(plan: RoundPlan, images: Sequence[int], batch_size: int) -> RoundPlan:
    """Return the plan of one client that takes as many steps as all clients of a round together.

    Args:
        plan: plan of the clients.
        images: training images of each client.
        batch_size: batch size of local training.

    >>> plan = RoundPlan(1, 9, (0, 2), steps=20, epochs=0.0, learning_rate=0.1, distillation=None)
    >>> centralised_plan(plan, [100, 50, 10], batch_size=32).steps
    40
    """
    counts = (images[client] for client in plan.clients if images[client])  # a client without images declines
    steps = sum(steps_for(plan.steps, plan.epochs, count, batch_size) for count in counts)
    return replace(plan, clients=(0,), steps=steps, epochs=0.0)


def count_participants(share: float, num_clients: int) -> int:
    """Return how many of all clients take part in a round, at least one."""
    return max(1, round_half_up(share * num_clients))


def round_half_up(value: float) -> int:
    """Round to the nearest integer, halves upwards.

    >>> [round_half_up(value) for value in (0.4, 0.5, 2.5)]
    [0, 1, 3]
    """
    return int(value + 0.5)


def _plain(value: Any) -> Any:
    """Return Python's own number for one of numpy's, which no message carries."""
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_plain(each) for each in value]
    return value.item() if isinstance(value, np.generic) else value
