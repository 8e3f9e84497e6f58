"""What a comparison asks of ``mosaic fit``: one request for each algorithm and seed, alike but for the algorithm."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from mosaic.errors import MosaicError

AS_CONFIGURED = "config"
"""Name of the algorithm that the configuration itself holds."""
_REFERENCE = "mosaic"
_MATCHED = ("student_updates", "generator_updates")


@dataclass(frozen=True)
class Budget:
    """What a server may spend on distillation over a whole run.

    Attributes:
        student_updates: optimiser steps of the global model.
        generator_updates: optimiser steps of generators, those of the clients together with the server's.
    """

    student_updates: int
    generator_updates: int


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
    budget: Budget,
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
        budget: of the server-side distillation, for every algorithm that says what it may spend.
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
        presets = find_presets(name)
        matched = () if name in own_budget else matching_flags([config, *overlays, *presets], budget)
        for seed in seeds:
            seeding = (f"--seed_everything={seed}", f"--data.seed={seed if partition_seed is None else partition_seed}")
            runs.append(RunRequest(name, seed, (config, *overlays, *presets), (*seeding, *matched)))
    return runs


def find_presets(name: str) -> list[Path]:
    """Return the files of an algorithm: presets of this package by name, or files by path.

    Raises:
        MosaicError: there is none of this name, or it holds more than an ``algorithm`` section.
    """
    if name == AS_CONFIGURED:
        return []
    shipped = Path(str(files("mosaic") / "presets"))
    found = []
    for part in name.split("+"):
        path = Path(part) if part.endswith((".yaml", ".yml")) else shipped / f"{part}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(preset.stem for preset in shipped.glob("*.yaml")))
            raise MosaicError(
                f"--algorithms: there is no {part}: expected {AS_CONFIGURED}, the path of a YAML file, or one of "
                f"{known}"
            )
        others = sorted(set(read_yaml(path)) - {"algorithm"})
        if others:
            raise MosaicError(
                f"--algorithms: {path} changes {', '.join(others)} too, and then more than the algorithm would differ: "
                "move that into a file for --overlay, which all algorithms get"
            )
        found.append(path)
    return found


def matching_flags(configs: Iterable[Path], budget: Budget) -> tuple[str, ...]:
    """Return flags that give an algorithm this budget, where its configuration says what it may spend."""
    spends = algorithm_of(merged(configs)).get("init_args") or {}
    return tuple(f"--algorithm.{key}={getattr(budget, key)}" for key in _MATCHED if key in spends)


def reference_budget(config: Mapping[str, Any], student: int | None, generator: int | None) -> Budget:
    """Return the budget that all server-side distillation gets: what Mosaic spends, unless told otherwise.

    Args:
        config: the configuration that all runs have in common, merged.
        student: student updates, if given.
        generator: generator updates, if given.

    Raises:
        MosaicError: the configuration does not say what Mosaic would spend.
    """
    schedule = (config.get("federation") or {}).get("schedule") or {}
    distils = schedule.get("distill_rounds")
    own = algorithm_of(config)
    is_mosaic = str(own.get("class_path", "")).endswith(".Mosaic")
    preset = own if is_mosaic and own.get("init_args") else algorithm_of(merged(find_presets(_REFERENCE)))
    settings = preset.get("init_args") or {}
    if student is None:
        student = (1 if distils is None else len(distils)) * int(_setting(settings, "distillation", "steps"))
    if generator is None:
        generator = _clients(config) * _generator_steps(settings)
    return Budget(student, generator)


def _generator_steps(settings: Mapping[str, Any]) -> int:
    if _setting(settings, "generation", "epochs") > 0:
        raise MosaicError(
            "--generator_updates: the configuration counts the generators' training in epochs, which are not the same "
            "for all clients: say how many updates the other methods may spend"
        )
    return int(_setting(settings, "generation", "steps"))


def _setting(settings: Mapping[str, Any], section: str, key: str) -> float:
    """Look a setting up in the given ones, then in the shipped preset, which is complete."""
    complete = algorithm_of(merged(find_presets(_REFERENCE)))["init_args"][section]
    return float({**complete, **(settings.get(section) or {})}[key])


def _clients(config: Mapping[str, Any]) -> int:
    partition = (config.get("data") or {}).get("partition") or {}
    count = (partition.get("init_args") or {}).get("num_clients") if isinstance(partition, Mapping) else None
    if count is None:
        raise MosaicError(
            "--generator_updates: the configuration does not say how many clients there are, so Mosaic's updates "
            "cannot be counted beforehand: say how many the other methods may spend"
        )
    return int(count)


def algorithm_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``algorithm`` section, which may be a mere class path."""
    section = config.get("algorithm") or {}
    return {"class_path": section} if isinstance(section, str) else dict(section)


def merged(configs: Iterable[Path]) -> dict[str, Any]:
    """Stack configurations as ``fit`` does; a section of another class replaces the one before."""
    total: dict[str, Any] = {}
    for config in configs:
        total = _stacked(total, read_yaml(config))
    return total


def _stacked(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    total = dict(below)
    for key, value in above.items():
        before = total.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            other = "class_path" in value and value["class_path"] != before.get("class_path")
            total[key] = dict(value) if other else _stacked(before, value)
        else:
            total[key] = value
    return total


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a configuration.

    Raises:
        MosaicError: the file is missing or is no mapping.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise MosaicError(
            f"{path}: expected a configuration of mosaic fit, which could not be read: {error}"
        ) from error
    if not isinstance(content, dict):
        raise MosaicError(f"{path}: expected a configuration of mosaic fit, got {type(content).__name__}")
    return content
