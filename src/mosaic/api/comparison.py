"""``mosaic.compare``: what ``mosaic compare`` does, from Python."""

import io
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mosaic.api.arguments import Config, config_files
from mosaic.api.plots import ComparisonPlots
from mosaic.api.raising import raising, refuse_in_children
from mosaic.api.run import Run, load
from mosaic.cli.main import check, run_lightning
from mosaic.comparison.budget import DistillationBudget
from mosaic.comparison.command import compare_algorithms
from mosaic.comparison.formats import comma_separated
from mosaic.comparison.outcome import Failure, Outcome
from mosaic.comparison.runner import run_folder
from mosaic.comparison.table import comparison_table
from mosaic.comparison.tuning import trial_name
from mosaic.errors import MosaicError

if TYPE_CHECKING:
    from pandas import DataFrame


class Comparison:
    """Several algorithms on the same data, clients, seeds and budget.

    Args:
        path: folder of table, pictures and outcomes.
        runs: folder of the run directories.
        results: of all runs, algorithm by algorithm.
        budget: of server-side distillation, for every row that distils.
        own_budget: rows that have one of their own.

    Attributes:
        path: of that folder.
        plot: draws figures.
        failures: reason of every run that has failed, by algorithm and seed.
    """

    def __init__(
        self,
        path: Path,
        runs: Path,
        results: Sequence[Outcome | Failure],
        budget: DistillationBudget | None = None,
        own_budget: Sequence[str] = (),
    ) -> None:
        self.path, self._runs = path.absolute(), runs.absolute()  # a notebook may go elsewhere
        self._table = comparison_table(results, budget, own_budget)
        self._outcomes = [result for result in results if isinstance(result, Outcome)]
        self.failures = {(each.algorithm, each.seed): each.reason for each in results if isinstance(each, Failure)}
        self.plot = ComparisonPlots(self._outcomes)

    def __repr__(self) -> str:
        """Say where this comparison lies and what it holds."""
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return f"Comparison({str(self.path)!r}, {len(self._outcomes)} runs{failed})"

    @property
    def table(self) -> "DataFrame":
        """One row for each algorithm, as in ``comparison.csv``: means over seeds and standard deviations, as numbers.

        Accuracies are in per cent; NaN is what was not measured.
        """
        import pandas

        return pandas.read_csv(io.StringIO(comma_separated(self._table)), index_col="algorithm")

    @property
    def runs(self) -> "DataFrame":
        """One row for each finished run, with its final figures; accuracies are shares in ``[0, 1]``."""
        import pandas

        return pandas.DataFrame(
            {
                "algorithm": outcome.algorithm,
                "seed": outcome.seed,
                "test_accuracy": outcome.last,
                "own_test_accuracy": outcome.own,
                "validation_accuracy": outcome.validated,
                "worst_validation_accuracy": outcome.worst_client,
                "bytes_up": outcome.summary["bytes_up"],
                "bytes_down": outcome.summary["bytes_down"],
                "seconds": outcome.summary["seconds"],
            }
            for outcome in self._outcomes
        )

    def run(self, algorithm: str, seed: int) -> Run:
        """Return one of the runs.

        Raises:
            MosaicError: it is not among them, has failed, or its folder is no longer there or holds another run by now.
        """
        known = {(outcome.algorithm, outcome.seed): outcome for outcome in self._outcomes}
        if (algorithm, seed) not in known:
            found = self.failures.get((algorithm, seed))
            why = f"failed: {found}" if found else f"expected one of {', '.join(f'{a} {s}' for a, s in known)}"
            raise MosaicError(f"run of {algorithm!r}, seed {seed!r}: {why}")
        outcome = known[algorithm, seed]
        trial = trial_name(algorithm, outcome.tuned)  # one that was chosen is not run again
        folders = [run_folder(name, seed, self._runs) for name in (trial, algorithm)]
        there = [folder for folder in folders if folder.is_dir()]
        if there and not any(map(outcome.lies_in, there)):
            raise MosaicError(
                f"run of {algorithm!r}, seed {seed!r}: expected that of the table, got another one in {there[0]}: give "
                "each comparison a folder of runs of its own, or open this one with mosaic.load"
            )
        return load(next(filter(outcome.lies_in, there), folders[-1]))


def compare(
    config: Config | Sequence[Config],
    algorithms: Sequence[str] = ("mosaic", "fedavg"),
    seeds: Iterable[int] = (0, 1, 2),
    *,
    output: str | Path | None = None,
    runs: str | Path | None = None,
    partition_seed: int | None = None,
    student_updates: int | None = None,
    generator_updates: int | None = None,
    own_budget: Sequence[str] = (),
    tune: str = "",
    processes: int = 1,
) -> Comparison:
    """Run several algorithms on several seeds at equal budgets, as ``mosaic compare`` does; print and write one table.

    Runs that are there already are not run again.

    Args:
        config: path of a YAML file, or its content as plain values; those after the first of a list are stacked for all
            algorithms alike.
        algorithms: presets by name or path; ``"A+B"`` stacks B on A; ``"config"`` takes the configuration's own.
        seeds: of partition, initialisation and training.
        output: folder of table, pictures and outcomes; ``runs/compare-CONFIG`` when not given.
        runs: folder of the run directories; a folder inside output when not given.
        partition_seed: one partition for all runs, instead of one for each seed.
        student_updates: server-side updates of the global model in a whole run, for every method that distils.
        generator_updates: updates of generators in a whole run, the clients' counted together.
        own_budget: algorithms that spend what their preset says instead.
        tune: settings that every algorithm chooses for itself, as ``KEY=V1,V2,...`` with spaces between.
        processes: runs side by side; a script then needs ``if __name__ == "__main__"``.

    Raises:
        MosaicError: the request is at fault; a run that fails is noted in the table instead.
    """
    numbers, own = _listed("seeds", seeds, Integral), _listed("own_budget", own_budget, str)
    for name, place in (("output", output), ("runs", runs)):
        if not isinstance(place, str | Path | None):
            raise MosaicError(f"{name}: expected a folder, got {place!r}")
    if not isinstance(tune, str):
        raise MosaicError(f"tune: expected text, as 'KEY=V1,V2,... KEY=V1,V2,...', got {tune!r}")
    refuse_in_children()
    given = [config] if isinstance(config, str | Path | Mapping) else config
    with raising(), config_files(config) as files:
        first, *more = files
        values = [file for file, each in zip(files, given, strict=True) if isinstance(each, Mapping)]
        if any("," in str(path) for path in more):
            raise MosaicError(f"config: expected paths without commas, got {', '.join(map(repr, map(str, more)))}")
        if output is None and first in values:
            output = Path("runs", "compare")
        folder, results, budget = compare_algorithms(
            run_lightning,
            check,
            lambda file: "values given in Python" if file in values else str(file),
            first,
            ",".join(_listed("algorithms", algorithms, str)),
            ",".join(numbers),
            ",".join(map(str, more)),
            None if output is None else Path(output),
            None if runs is None else Path(runs),
            partition_seed,
            student_updates,
            generator_updates,
            ",".join(own),
            tune,
            processes,
        )
    return Comparison(folder, Path(runs) if runs else folder / "runs", results, budget, own)


def _listed(name: str, values: object, kind: type) -> list[str]:
    """Return a list's values as text, and refuse what is no list of this kind."""
    no_list = isinstance(values, str) or not isinstance(values, Iterable)
    listed = [] if no_list else list(cast(Iterable[object], values))
    wrong = [value for value in listed if not isinstance(value, kind) or isinstance(value, bool) or "," in str(value)]
    if no_list or wrong:
        told = "whole numbers, as [3] or range(3)" if kind is Integral else "names"
        raise MosaicError(f"{name}: expected a list of {told}, got {values!r}")
    return [str(value) for value in listed]
