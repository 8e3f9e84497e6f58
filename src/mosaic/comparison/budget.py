"""The budget of server-side distillation: every algorithm that takes one gets what Mosaic spends."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mosaic.comparison.configurations import AS_CONFIGURED
from mosaic.errors import MosaicError
from mosaic.signatures import accepted_arguments

if TYPE_CHECKING:
    from mosaic.algorithms import Algorithm
    from mosaic.data import FederatedDataModule
    from mosaic.federation.federation import Federation
    from mosaic.generation import Generation
    from mosaic.tasks.generation_settings import GenerationSettings

MATCHED = ("student_updates", "generator_updates")
"""Init arguments by which an algorithm is told its budget; also the budget's attributes."""
PREFERRED = "mosaic"
"""The preset that sets the budget where no Mosaic row does."""


class Made(Protocol):
    """What the configuration of a row makes."""

    algorithm: Any
    federation: "Federation"
    data: "FederatedDataModule"


@dataclass(frozen=True)
class DistillationBudget:
    """Optimiser steps of a whole run: of the global model, and of all generators, the clients' included.

    Attributes:
        of: the row that spends as much; empty where a figure was given.
        default_gan: whether that row trains no GAN, so that generators' updates are those of a default one per client.
    """

    student_updates: int
    generator_updates: int
    of: str = ""
    default_gan: bool = False

    def __str__(self) -> str:
        """Say how much it is, and whose."""
        student, generator = f"{self.student_updates} student", f"{self.generator_updates} generator updates"
        if self.of and self.default_gan:
            taken = f"{generator}, as a default GAN at each client takes ({self.of} trains none)"
            return f"{student} updates, as {self.of} spends, and {taken}"
        return f"{student} and {generator}{f', as {self.of} spends' if self.of else ''}"


def reference_budget(
    rows: Mapping[str, Made], preset: Callable[[], Made], student: int | None, generator: int | None
) -> DistillationBudget:
    """Return the budget of all server-side distillation: the given figures, or else what Mosaic spends.

    Mosaic is the row ``mosaic``, else the configuration's own, else the first row that is a variant of it, else its
    preset on the configuration.

    Args:
        rows: those that share the budget, in the order of the table.
        preset: makes the preset, if it is needed.
        student: updates of the global model, where they are given.
        generator: updates of generators, likewise.

    Raises:
        MosaicError: updates of generators cannot be counted beforehand, and are not given.
    """
    if student is not None and generator is not None:
        return DistillationBudget(student, generator)
    name, row = _reference(rows, preset)
    updates = (
        _student_updates(row) if student is None else student,
        _generator_updates(row, name) if generator is None else generator,
    )
    if student is not None or generator is not None:
        return DistillationBudget(*updates)
    return DistillationBudget(*updates, name, updates[1] > 0 and not _trained_gans(row))


def _reference(rows: Mapping[str, Made], preset: Callable[[], Made]) -> tuple[str, Made]:
    from mosaic.algorithms import Mosaic  # takes seconds, which --help need not wait for

    variants = [name for name, row in rows.items() if isinstance(row.algorithm, Mosaic)]
    for name in (PREFERRED, AS_CONFIGURED, *variants):
        if name in variants:
            return name, rows[name]
    return PREFERRED, preset()


def _student_updates(row: Made) -> int:
    return len(row.federation.schedule.distills_after) * int(row.algorithm.distillation.steps)


def _generator_updates(row: Made, name: str) -> int:
    """Return the updates of all clients' generators: each client trains one, in the first round that asks it.

    Every round does with replay, else those that distil. Where rounds ask a share of the clients, and it hangs on the
    seed how many they ask together, it is the expected number.
    """
    from mosaic.federation.schedule import count_participants, round_half_up

    clients, steps, schedule = _clients(row), _generator_steps(row, name), row.federation.schedule
    left_out = 1 - count_participants(schedule.participation, clients) / clients
    asking = schedule.rounds if row.algorithm.program.replay.share > 0 else len(schedule.distills_after)
    return round_half_up(clients * (1 - left_out**asking)) * steps


def _generator_steps(row: Made, name: str) -> int:
    """Return the updates of a client's GANs; where clients train none, others may spend what a default one takes."""
    from mosaic.tasks.generation_settings import GenerationSettings

    trained = _trained_gans(row) or [GenerationSettings()]
    if any(gan.epochs > 0 for gan in trained):
        raise MosaicError(
            f"--generator_updates: {name} counts the generators' training in epochs, which are not the same for all "
            "clients: say how many updates the other methods may spend"
        )
    return sum(gan.steps for gan in trained)


def _trained_gans(row: Made) -> "list[GenerationSettings]":
    return list(_gans(row.algorithm.program.generation))


def _gans(generation: "Generation") -> "Iterator[GenerationSettings]":
    """Yield every GAN, those of a mixture one after the other."""
    from mosaic.generation import Mixture
    from mosaic.tasks.generation_settings import GenerationSettings

    if isinstance(generation, GenerationSettings):
        yield generation
    for part in generation.parts if isinstance(generation, Mixture) else ():
        yield from _gans(part)


def _clients(row: Made) -> int:
    if (count := row.data.partition.num_clients) is None:
        raise MosaicError(
            "--generator_updates: the configuration does not say how many clients there are, so Mosaic's updates "
            "cannot be counted beforehand: say how many the other methods may spend"
        )
    return count


def matching_flags(algorithm: "Algorithm", budget: DistillationBudget) -> tuple[str, ...]:
    """Return flags that tell an algorithm its budget, if it takes one."""
    return tuple(f"--algorithm.{key}={getattr(budget, key)}" for key in spends(algorithm))


def spends(algorithm: "Algorithm") -> list[str]:
    """Return the init arguments by which an algorithm is told its budget."""
    accepted, _ = accepted_arguments(type(algorithm))
    return [key for key in MATCHED if key in accepted]
