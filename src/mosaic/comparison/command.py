"""``mosaic compare``: one table of several algorithms on the same data, clients, seeds and budget."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from numbers import Integral
from pathlib import Path

from mosaic.comparison.budget import (
    PREFERRED,
    DistillationBudget,
    Made,
    matching_flags,
    reference_budget,
    spends,
)
from mosaic.comparison.configurations import find_presets, merged, read_configuration
from mosaic.comparison.outcome import Failure, Outcome
from mosaic.comparison.request import (
    Fit,
    Make,
    RunRequest,
    first_of_each,
    plan_runs,
    read_rows,
    require_one_device,
    require_simulation,
    require_whole_runs,
)
from mosaic.comparison.tuning import check_all, made, read_choices, require_same_choices, tuned
from mosaic.disk import make_writable, naming_disk
from mosaic.errors import MosaicError, require_seed

_WAY_ON = "the same command then goes on with what is there"


def compare_algorithms(
    fit: Fit,
    check: Make,
    named: Callable[[Path], str],
    config: Path,
    algorithms: str = "mosaic,fedavg",
    seeds: str = "0,1,2",
    overlay: str = "",
    output: Path | None = None,
    runs: Path | None = None,
    partition_seed: int | None = None,
    student_updates: int | None = None,
    generator_updates: int | None = None,
    own_budget: str = "",
    tune: str = "",
    processes: int = 1,
) -> tuple[Path, list[Outcome | Failure], DistillationBudget | None]:
    """Run what is missing, then print and write one table and two plots. A second call goes on where one stopped.

    Args:
        fit: runs mosaic fit.
        check: makes what arguments of mosaic fit name, and refuses those with which no run could begin.
        named: says what the table calls a configuration's file.
        config: of mosaic fit, which all runs have in common.
        algorithms: presets by name or path, separated by commas; A+B stacks B on A; "config" takes the
            configuration's own algorithm.
        seeds: of partition, initialisation and training, separated by commas.
        overlay: configurations stacked for all algorithms alike, separated by commas.
        output: folder of table, plots and outcomes; runs/compare-CONFIG+OVERLAY when not given.
        runs: folder of the run directories; a folder inside output when not given.
        partition_seed: one partition for all runs, instead of one for each seed.
        student_updates: server-side updates of the global model in a whole run, for every method that distils; as
            Mosaic's when not given: the row mosaic's, or else config's, another Mosaic row's, or the preset's.
        generator_updates: updates of generators in a whole run, the clients' counted together; the same.
        own_budget: algorithms that spend what their preset says instead, separated by commas.
        tune: settings that every algorithm chooses for itself, as KEY=V1,V2,... with spaces between; one after the
            other, on the first seed, by the clients' validation images.
        processes: runs side by side.

    Returns:
        The output folder, the result of every run, algorithm by algorithm, and the budget of server-side distillation.
    """
    for option, value, low in (
        *(("student_updates", student_updates, 0), ("generator_updates", generator_updates, 0)),
        *(("partition_seed", partition_seed, 0), ("processes", processes, 1)),
    ):
        if value is not None and (not isinstance(value, Integral) or value < low):
            raise MosaicError(f"--{option}: expected {low} or more, got {value!r}")
    common, own = [read_configuration(path) for path in (config, *map(Path, _parts(overlay)))], _parts(own_budget)
    rows = read_rows(common, _parts(algorithms), own)
    require_one_device(merged(common))
    require_simulation(merged(common))
    require_whole_runs(merged(common))
    requests, choices = plan_runs(rows, _numbers(seeds), partition_seed), read_choices(tune)
    stems = [path.stem for path in (config, *map(Path, _parts(overlay)))]
    output = output or Path("runs", f"compare-{'+'.join(stems)}")
    if output.exists() and not output.is_dir():
        raise MosaicError(f"--output {output}: expected a folder, got a file: choose another")
    for option, folder in (("--output", output), ("--runs", runs or output)):
        if (folder / "config.yaml").is_file() and (folder / "rounds").is_dir():
            raise MosaicError(f"{option} {folder}: expected a folder of its own, got that of a run: choose another")
    if choices:
        require_same_choices(requests, choices, output / "outcomes.jsonl")
    make = cache(partial(made, check))  # what is told no budget is not made a second time
    sharing = {name: make(request) for name, request in first_of_each(requests).items() if name not in own}
    preset = RunRequest(PREFERRED, 0, (*common, *find_presets(PREFERRED)), ())
    budget = _budget(sharing, partial(make, preset), student_updates, generator_updates)
    if budget is not None:
        told = {name: matching_flags(row.algorithm, budget) for name, row in sharing.items()}
        requests = [replace(each, flags=(*each.flags, *told.get(each.algorithm, ()))) for each in requests]
    there = {outcome.algorithm for outcome in Outcome.read_all(output / "outcomes.jsonl")}
    check_all(make, requests, choices, done=there)
    for option, folder in (("--output", output), ("--runs", runs or output)):
        make_writable(folder, option)
    from rich.console import Console

    from mosaic.comparison.runner import finish_all
    from mosaic.comparison.writing import write_comparison

    console = Console(highlight=False, markup=False)  # names and reasons may hold square brackets
    exceptions = f", except {', '.join(own)}, which spend their own" if own else ""
    spent = {} if budget is None else {"server-side budget": f"{budget}{exceptions}"}
    for name, amount in spent.items():
        console.print(f"{name}: {amount}", soft_wrap=True)

    def finish(asked: Sequence[RunRequest], file: str = "tried.jsonl") -> list[Outcome | Failure]:
        return finish_all(fit, asked, output / file, runs or output / "runs", processes, console)

    with naming_disk(output, _WAY_ON):
        if choices:
            requests = tuned(requests, choices, finish, output / "outcomes.jsonl")
        results = finish(requests, "outcomes.jsonl")
    facts = {
        "configuration": ", ".join(named(each.path) for each in common),
        "seeds": f"{seeds}, {'also of the partition' if partition_seed is None else f'partition {partition_seed}'}",
        **spent,
    }
    there = {outcome.algorithm for outcome in Outcome.read_all(output / "outcomes.jsonl")}
    if others := sorted(there - {request.algorithm for request in requests}):
        console.print(
            f"not in this table, but in {output / 'outcomes.jsonl'}: {', '.join(others)}; named among --algorithms "
            "they are in it, and not run again",
            soft_wrap=True,
        )
    finished = any(isinstance(result, Outcome) for result in results)
    if finished or not (output / "comparison.md").exists():  # an older table is worth more than one of failures
        with naming_disk(output, _WAY_ON):
            write_comparison(results, facts, output, console, budget, own)
    return output, results, budget


class RunsFailedError(MosaicError):
    """Some runs of a comparison have failed."""

    exit_code = 1


def require_all(results: Sequence[object]) -> None:
    """Refuse results of which some are failures, so that scripts notice.

    Raises:
        RunsFailedError: some are; the table of the others is written.
    """
    failed = [result for result in results if isinstance(result, Failure)]
    if failed:
        first = failed[0]
        raise RunsFailedError(
            f"{len(failed)} of {len(results)} runs have failed, the first of them {first.algorithm}, seed {first.seed} "
            f"({first.reason}): fix them, and give the same command again"
        )


def _budget(
    rows: Mapping[str, Made], preset: Callable[[], Made], student: int | None, generator: int | None
) -> DistillationBudget | None:
    """Return what all rows may spend; nothing where it cannot be counted and no row needs it."""
    try:
        return reference_budget(rows, preset, student, generator)
    except MosaicError:
        if any(spends(row.algorithm) for row in rows.values()):
            raise
        return None


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(text: str) -> list[int]:
    try:
        found = [int(part) for part in _parts(text)]
    except ValueError as error:
        raise MosaicError(f"--seeds: expected whole numbers separated by commas, got {text!r}") from error
    for seed in found:
        require_seed("--seeds", seed)
    return found
