"""The runs of a comparison: one request for each algorithm and seed, alike in all but the algorithm."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mosaic.comparison.budget import Made
from mosaic.comparison.configurations import Configuration, find_presets, merged
from mosaic.errors import MosaicError

Fit = Callable[[Sequence[str]], object]
"""Run ``mosaic fit`` with these arguments; a function that other processes can import."""
Make = Callable[[Sequence[str]], Made]
"""Make what arguments of ``mosaic fit`` name, and run nothing."""
Rows = Mapping[str, Sequence[Configuration]]
"""Configurations of every algorithm of the table by its name; later ones win."""


@dataclass(frozen=True)
class RunRequest:
    """One run.

    Attributes:
        configs: later ones win.
        flags: more of the command line.
        tuned: settings that the algorithm has chosen or tries, as ``KEY=VALUE``.
    """

    algorithm: str
    seed: int
    configs: tuple[Configuration, ...]
    flags: tuple[str, ...]
    tuned: tuple[str, ...] = ()

    def arguments(self, folder: Path) -> list[str]:
        """Write the configurations into a folder; return the arguments of ``mosaic``.

        The algorithm is stacked beforehand: ``fit`` would let it keep arguments of the class below it that have the
        same name, and the rows would differ in more than their method.
        """
        algorithm = merged(self.configs).get("algorithm")
        sections = [{key: v for key, v in config.values.items() if key != "algorithm"} for config in self.configs]
        given = []
        for number, values in enumerate([*sections, {"algorithm": algorithm} if algorithm else {}]):
            if values:
                file = folder / f"{number}.yaml"
                file.write_text(yaml.safe_dump(values, sort_keys=False))
                given += ["--config", str(file)]
        return ["fit", *given, *self.flags, *(f"--{setting}" for setting in self.tuned)]

    def content(self) -> dict[str, Any]:
        """Return what decides the outcome: the stacked values and the flags, but not where the files lie."""
        tuned = {"tuned": list(self.tuned)} if self.tuned else {}
        return {"config": merged(self.configs), "flags": list(self.flags), **tuned}


def read_rows(common: Sequence[Configuration], algorithms: Sequence[str], own_budget: Sequence[str] = ()) -> Rows:
    """Return the configurations of every algorithm: those of all runs, and its presets.

    Raises:
        MosaicError: an algorithm is unknown or named twice, or one with a budget of its own is not among them.
    """
    _require_different("algorithms", algorithms)
    if unknown := set(own_budget) - set(algorithms):
        raise MosaicError(f"--own_budget: {', '.join(sorted(unknown))} is not among --algorithms")
    return {name: (*common, *find_presets(name)) for name in algorithms}


def require_one_device(config: Mapping[str, Any]) -> None:
    """Refuse several devices or machines: Lightning starts ``mosaic compare`` anew for each, and all would write."""
    trainer = config.get("trainer") or {}
    devices, nodes = trainer.get("devices"), trainer.get("num_nodes")
    one = len(devices) == 1 if isinstance(devices, list) else devices in (None, 1, "1")
    if not one or nodes not in (None, 1):
        key, got = ("devices", devices) if not one else ("num_nodes", nodes)
        raise MosaicError(
            f"trainer.{key}: expected one device for each run of mosaic compare, got {got}: set it to 1 in a file for "
            "--overlay, and run several side by side with --processes"
        )


def require_whole_runs(config: Mapping[str, Any]) -> None:
    """Refuse dry runs, of which nothing is kept."""
    if dry := (config.get("trainer") or {}).get("fast_dev_run"):
        raise MosaicError(
            f"trainer.fast_dev_run: expected whole runs in a comparison, got {dry}: leave it out, and try a "
            "configuration with mosaic fit"
        )


def require_simulation(config: Mapping[str, Any], command: str = "mosaic compare") -> None:
    """Refuse clients on hosts of their own, for a command that runs rounds of its own."""
    partition = (config.get("data") or {}).get("partition") or {}
    path = str(partition.get("class_path", "") if isinstance(partition, Mapping) else partition)
    package, _, name = path.rpartition(".")
    if name == "Remote" and package.partition(".")[0] in ("", "mosaic"):
        raise MosaicError(
            f"data.partition: {command}: expected clients that are simulated, got mosaic.data.Remote, whose clients "
            "hold their images themselves: use mosaic fit"
        )


def plan_runs(rows: Rows, seeds: Sequence[int], partition_seed: int | None) -> list[RunRequest]:
    """Return all runs of a comparison, algorithm by algorithm.

    Args:
        rows: configurations of every algorithm.
        seeds: of initialisation and training, and of the partition where it has none of its own.
        partition_seed: one partition for all runs; when not given it moves with the seed.
    """
    _require_different("seeds", seeds)
    return [
        RunRequest(
            *(name, seed, tuple(configs)),
            (f"--seed_everything={seed}", f"--data.seed={seed if partition_seed is None else partition_seed}"),
        )
        for name, configs in rows.items()
        for seed in seeds
    ]


def first_of_each(requests: Sequence[RunRequest]) -> dict[str, RunRequest]:
    """Return every algorithm's first request, in their order."""
    first: dict[str, RunRequest] = {}
    for request in requests:
        first.setdefault(request.algorithm, request)
    return first


def _require_different(option: str, values: Sequence[str] | Sequence[int]) -> None:
    if not values or len(set(values)) < len(values):
        raise MosaicError(f"--{option}: expected different values, at least one, got {list(values)}")
