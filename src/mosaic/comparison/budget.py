"""The budget of server-side distillation: what Mosaic spends in the same comparison, for all who take a budget."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any

from mosaic.comparison.configurations import AS_CONFIGURED, algorithm_of, find_presets, given_settings, merged
from mosaic.errors import MosaicError
from mosaic.signatures import accepted_arguments

MATCHED = ("student_updates", "generator_updates")
"""Init arguments by which an algorithm is told its budget; also the budget's attributes."""
PREFERRED = "mosaic"
"""The preset that sets the budget where no Mosaic row does."""


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
    common: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]], student: int | None, generator: int | None
) -> DistillationBudget:
    """Return the budget of all server-side distillation: the given figures, or else what Mosaic spends.

    Mosaic is the row ``mosaic``, else the configuration's own, else the first row that is a variant of it, else its
    preset on the configuration. Configurations are merged; ``rows`` are those that share the budget, in the order of
    the table.
    """
    name, config = _reference(common, rows)
    try:
        updates = (
            _student_updates(config) if student is None else student,
            _generator_updates(config, name) if generator is None else generator,
        )
        if student is not None or generator is not None:
            return DistillationBudget(*updates)
        return DistillationBudget(*updates, name, updates[1] > 0 and not _trained_gans(config))
    except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
        raise MosaicError(
            f"--student_updates, --generator_updates: what {name} spends cannot be read from its configuration "
            f"({error}): mend algorithm, federation.schedule or data.partition there, or give both figures"
        ) from error


def _student_updates(config: Mapping[str, Any]) -> int:
    from mosaic.tasks.distillation import DistillationSettings  # takes a second, which --help need not wait for

    distillation = given_settings(algorithm_of(config)).get("distillation") or {}
    return _distilling_rounds(config) * int(distillation.get("steps", DistillationSettings.steps))


def _generator_updates(config: Mapping[str, Any], name: str) -> int:
    """Return the updates of all clients' generators: each client trains one, in the first round that asks it.

    Where rounds ask a share of the clients, and it hangs on the seed how many they ask together, it is the expected
    number.
    """
    from mosaic.federation.schedule import Schedule, count_participants, round_half_up

    clients, steps = _clients(config), _generator_steps(config, name)
    share = float(_schedule(config).get("participation") or Schedule.participation)
    left_out = 1 - count_participants(share, clients) / clients
    return round_half_up(clients * (1 - left_out ** _distilling_rounds(config))) * steps


def _distilling_rounds(config: Mapping[str, Any]) -> int:
    rounds = _schedule(config).get("distill_rounds")
    return 1 if rounds is None else len(set(rounds))


def _schedule(config: Mapping[str, Any]) -> Mapping[str, Any]:
    return (config.get("federation") or {}).get("schedule") or {}


def _reference(common: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> tuple[str, Mapping[str, Any]]:
    variants = [name for name, config in rows.items() if _is_mosaic(config)]
    for name in (PREFERRED, AS_CONFIGURED, *variants):
        if name in variants:
            return name, rows[name]
    return PREFERRED, {**common, "algorithm": algorithm_of(merged(find_presets(PREFERRED)))}


def _is_mosaic(config: Mapping[str, Any]) -> bool:
    """Whether an algorithm is Mosaic, which is also fit's default, or a class derived from it."""
    path = str(algorithm_of(config).get("class_path", "Mosaic"))
    found = _class_of(path)
    return "Mosaic" in ([base.__name__ for base in found.__mro__] if found else [path.rpartition(".")[2]])


def _generator_steps(config: Mapping[str, Any], name: str) -> int:
    """Return the updates of a client's GANs; where clients train none, others may spend what a default one takes."""
    from mosaic.tasks.generation_settings import GenerationSettings

    trained = _trained_gans(config) or [{}]
    if any(given.get("epochs", GenerationSettings.epochs) > 0 for given in trained):
        raise MosaicError(
            f"--generator_updates: {name} counts the generators' training in epochs, which are not the same for all "
            "clients: say how many updates the other methods may spend"
        )
    return sum(int(given.get("steps", GenerationSettings.steps)) for given in trained)


def _trained_gans(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(_gans(given_settings(algorithm_of(config)).get("generation") or {}))


def _gans(generation: Mapping[str, Any] | str) -> Iterator[Mapping[str, Any]]:
    """Yield the arguments of every GAN, those of a mixture one after the other."""
    path = generation if isinstance(generation, str) else generation.get("class_path", "")
    arguments = {} if isinstance(generation, str) else generation.get("init_args") or {}
    if path.endswith("Adversarial") or {"steps", "epochs"} & set(arguments):
        yield arguments
    for part in arguments.get("parts", ()):
        yield from _gans(part)


def _clients(config: Mapping[str, Any]) -> int:
    partition = (config.get("data") or {}).get("partition") or {}
    count = (partition.get("init_args") or {}).get("num_clients") if isinstance(partition, Mapping) else None
    if count is None:
        raise MosaicError(
            "--generator_updates: the configuration does not say how many clients there are, so Mosaic's updates "
            "cannot be counted beforehand: say how many the other methods may spend"
        )
    return int(count)


def matching_flags(config: Mapping[str, Any], budget: DistillationBudget) -> tuple[str, ...]:
    """Return flags that tell an algorithm its budget, if it takes one."""
    return tuple(f"--algorithm.{key}={getattr(budget, key)}" for key in spends(config))


def spends(config: Mapping[str, Any]) -> list[str]:
    """Return the init arguments by which an algorithm is told its budget."""
    return [key for key in MATCHED if key in _takes(config)]


def _takes(config: Mapping[str, Any]) -> set[str]:
    """Return the init arguments of an algorithm: those that its class takes, and those that its YAML names."""
    algorithm = algorithm_of(config)
    found = _class_of(str(algorithm.get("class_path", "")))
    return {*given_settings(algorithm), *(accepted_arguments(found)[0] if found else ())}


def _class_of(path: str) -> type | None:
    """Import a class; nothing where that fails, since the run itself will say more."""
    try:
        found = resolve_name(path if "." in path else f"mosaic.algorithms.{path}")
    except Exception:
        return None
    return found if isinstance(found, type) else None
