"""What a comparison asks of ``mosaic fit``: one request for each algorithm and seed, alike but for the algorithm."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mosaic.comparison.budget import Budget, matching_flags
from mosaic.comparison.configurations import find_presets, merged, read_yaml
from mosaic.errors import MosaicError


@dataclass(frozen=True)
class RunRequest:
    """One run.

    Attributes:
        algorithm: what it is called in the table.
        seed: of initialisation and training.
        configs: configurations, later ones win.
        flags: more of the command line.
    """

    algorithm: str
    seed: int
    configs: tuple[Path, ...]
    flags: tuple[str, ...]

    @property
    def name(self) -> str:
        """Say which run of the comparison this is; also the stem of its files."""
        return f"{self.algorithm}-seed{self.seed}"

    def arguments(self) -> list[str]:
        """Return what ``mosaic`` is given."""
        return ["fit", *(part for config in self.configs for part in ("--config", str(config))), *self.flags]

    def content(self) -> dict[str, Any]:
        """Return what decides the outcome: the configurations' text as values, wherever they lie, and the flags."""
        return {"configs": [read_yaml(config) for config in self.configs], "flags": list(self.flags)}


def plan_runs(
    config: Path,
    overlays: Sequence[Path],
    algorithms: Sequence[str],
    seeds: Sequence[int],
    partition_seed: int | None,
    budget: Budget | None,
    own_budget: Sequence[str],
) -> list[RunRequest]:
    """Return all runs of a comparison, algorithm by algorithm.

    Args:
        config: of the run that all have in common.
        overlays: stacked on it, for all algorithms alike.
        algorithms: presets by name or path, joined by ``+`` where one is stacked on another; ``config`` takes the
            configuration's own.
        seeds: of initialisation and training, and of the partition where it has none of its own.
        partition_seed: one partition for all runs; when not given it moves with the seed.
        budget: of the server-side distillation, for every algorithm that can be told; none where nobody can.
        own_budget: algorithms that spend what their preset says instead.

    Raises:
        MosaicError: an algorithm is unknown, or its preset changes more than the algorithm.
    """
    unknown = set(own_budget) - set(algorithms)
    if unknown:
        raise MosaicError(f"--own_budget: {', '.join(sorted(unknown))} is not among --algorithms")
    for option, values in (("algorithms", algorithms), ("seeds", seeds)):
        if not values or len(set(values)) < len(values):
            raise MosaicError(f"--{option}: expected different values, at least one, got {list(values)}")
    runs = []
    for name in algorithms:
        configs = (config, *overlays, *find_presets(name))
        matched = () if budget is None or name in own_budget else matching_flags(merged(configs), budget)
        for seed in seeds:
            seeding = (f"--seed_everything={seed}", f"--data.seed={seed if partition_seed is None else partition_seed}")
            runs.append(RunRequest(name, seed, configs, (*seeding, *matched)))
    return runs
