"""Every algorithm on the same partitions, seeds, network and budget: what README.md and docs/results.md report.

    python benchmarks/results.py run [--settings digits-0.05 ...] [--algorithms config fedavg ...] [--processes 2]
    python benchmarks/results.py table   # writes docs/results.md, docs/clients.md, docs/ablation.md and README.md

Each setting is one `mosaic compare`, which leaves a line per run under benchmarks/results/comparison/ and does not run
it again, so an interrupted start goes on where it stopped. Every algorithm chooses its rates by the clients' validation
images. Where FedAvg is to have as much time as Mosaic takes, rounds are counted from what both took.
"""

import argparse
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from statistics import mean, stdev

import yaml
from tables import mean_and_error, replace_blocks, table

from mosaic.comparison.outcome import Outcome

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "comparison"
SCRATCH = ROOT / "runs" / "comparison"
MOSAIC = "config"
"""The row of Mosaic: as a setting's configuration has it, which is the preset but for what its file says."""
AVERAGING = ("fedavg", "fedprox", "fedrs", "fedvls", "fedbn", "prototype_head")
DISTILLING = (MOSAIC, "dense", "co_boosting", "fedftg", "dfrd")
ENDS = ("local_only", "centralised")
EVERY = (*DISTILLING, *AVERAGING, *ENDS)
FEW = (MOSAIC, "fedavg", "prototype_head")
RELEASED = ("mosaic_paper+reduced", "dense_released", "co_boosting_released", "fedftg_released")
"""At their own budgets. Mosaic's, of 200 epochs at width 64, would take half a day: its reduced one stands in.
Co-Boosting's belongs to one round, and none of DFRD was at hand."""

STAGES = {
    "global before distillation": "averaged model",
    "plain ensemble": "plain ensemble",
    "prototype head": "prototype head",
    "prototype classifier": "prototypes alone",
    "gated teacher": "teacher",
    "student before its new head": "student, own head",
    "student": "student",
}
"""What Mosaic measures on its way; all but the student need no generator, and not every student gets a new head."""

OVERVIEW = (
    *("data and rounds", "FedAvg", "prototype head", "Mosaic", "Mosaic - FedAvg"),
    *("FedAvg in Mosaic's time (rounds)", "Mosaic - FedAvg in that time", "time, Mosaic / FedAvg"),
)
"""Columns of docs/results.md."""

IN_README = OVERVIEW[:-1]
"""Those of them that README.md shows."""

ROWS_IN_README = (
    *("digits-0.05", "mnist-0.05", "cifar10-part-one-shot", "cifar10-part", "cifar10-0.1"),
    "digits-0.05-widths",
)
"""Settings that it shows: of each kind one, and where nothing is gained."""

SAME_TIME, RELEASED_BUDGETS = "-same-time", "-released"
"""How settings end whose rows are added to those of another."""

PARTS_OF = "-parts"
"""How settings end that change one part of Mosaic at a time; docs/ablation.md has them, docs/results.md has not."""

FRESH = {"learning_rate": 2e-3, "interpolation": 1.0, "freeze_statistics": False, "origin_weight": 0.0}
"""How a student learns where nobody has replayed; the configuration of CIFAR-10 is for models that have."""
FINE_TUNE_RATES = "federation.schedule.fine_tune_learning_rate=0.01,0.001"


@dataclass(frozen=True)
class Schedule:
    """Rounds, and steps in each.

    Attributes:
        collaborative: rounds before distillation.
        steps: of a client in each round.
        fine_tune: rounds after it, at a small rate.
        student: updates of the student, on ten images each, where nobody has replayed; as the configuration has it
            when not given.
    """

    collaborative: int
    steps: int
    fine_tune: int
    student: int | None = None

    def values(self) -> dict[str, object]:
        """Return it as a configuration."""
        rounds = {"collaborative_rounds": self.collaborative, "fine_tune_rounds": self.fine_tune}
        values: dict[str, object] = {"federation": {"schedule": {**rounds, "local_steps": self.steps}}}
        if self.student is not None:
            student = {"steps": self.student, "pool_size": 10 * self.student, **FRESH}
            values["algorithm"] = {"init_args": {"distillation": student}}
        return values


@dataclass(frozen=True)
class Setting:
    """One table.

    Attributes:
        means: in plain words.
        config: common to all runs.
        schedule: of all runs.
        overlays: stacked on it.
        algorithms: rows.
        seeds: of partition and initialisation.
        own_budget: whether every row spends what its preset says, at the configuration's rates.
        generator_updates: of those that train generators on the server; as Mosaic's GANs would take when not given.
        rates: of local training, among which every row chooses; those of the configuration when there are none.
    """

    means: str
    config: str
    schedule: Schedule
    overlays: tuple[str, ...] = ()
    algorithms: tuple[str, ...] = EVERY
    seeds: tuple[int, ...] = (0, 1, 2)
    own_budget: bool = False
    generator_updates: int | None = None
    rates: tuple[float, ...] = (0.1, 0.03, 0.01)

    def arguments(self, name: str, processes: int, algorithms: Sequence[str] = ()) -> list[str]:
        """Write the schedule beside the outcomes; return the command line of the comparison, of some rows if given.

        Mosaic is always among them, since all others have its budget, and those that need none if they are there: they
        are not run again, and the page has them.
        """
        there = [row for row in (*AVERAGING, *ENDS) if self.is_complete(name, (row,))]
        rows = [row for row in self.algorithms if not algorithms or row in (*algorithms, *there, MOSAIC)]
        output = RESULTS.relative_to(ROOT) / name
        (RESULTS / name).mkdir(parents=True, exist_ok=True)
        (RESULTS / name / "schedule.yaml").write_text(yaml.safe_dump(self.schedule.values()))
        options = {
            "algorithms": rows,
            "seeds": self.seeds,
            "overlay": [*(f"configs/{overlay}.yaml" for overlay in self.overlays), output / "schedule.yaml"],
            "own_budget": rows if self.own_budget else (),
            "output": [output],
            "runs": [SCRATCH.relative_to(ROOT) / name],
            "processes": [processes],
            "tune": [self._choices()] if self.rates and not self.own_budget else [],
        }
        if self.generator_updates is not None:
            options["generator_updates"] = [self.generator_updates]
        flags = (f"--{option}={','.join(map(str, values))}" for option, values in options.items())
        return ["compare", f"configs/{self.config}.yaml", *flags]

    def _choices(self) -> str:
        rates = f"federation.schedule.learning_rate={','.join(map(str, self.rates))}"
        return f"{rates} {FINE_TUNE_RATES}" if self.schedule.fine_tune else rates

    def is_complete(self, name: str, rows: Iterable[str] = ()) -> bool:
        """Whether every run has left its outcome, or those of some rows have."""
        there = {(outcome.algorithm, outcome.seed) for outcome in outcomes(name)}
        return there >= {(row, seed) for row in rows or self.algorithms for seed in self.seeds}


REPLAYING = ("replay", "replay+teach_back")
WIDTHS = (MOSAIC, "replay", "dense", "fedftg", "dfrd", *(row for row in AVERAGING if row != "fedbn"), "local_only")
ARCHITECTURES = (MOSAIC, *REPLAYING, "dense", "local_only")
"""Rows that work with clients whose models differ."""
_DIGITS_OF = "digits, Dirichlet 0.05, 13 rounds of 20 steps, {}"
_MNIST_OF = "10,000 images of MNIST, Dirichlet 0.05, 13 rounds of 20 steps, {}"
_FAST = (0.1, 0.03)
"""For CIFAR: on 10,000 images of CIFAR-10 FedAvg reached 30 % in 25 rounds at 0.01, and 44 in 20 at 0.05; on all images
it is 5 points better at 0.1 than at 0.03, on CIFAR-100 six."""
_SHORT, _ONCE, _LONG = Schedule(10, 20, 3), Schedule(1, 200, 0), Schedule(8, 100, 2)
_SKEW = "partitions/dirichlet_{}"
_PART = "data/{}_part"
SETTINGS = {
    "digits-0.05": Setting("digits, Dirichlet 0.05, 13 rounds of 20 steps", "digits", _SHORT),
    "digits-0.05-one-shot": Setting("digits, Dirichlet 0.05, one round of 200 steps", "digits", _ONCE),
    "digits-0.1": Setting("digits, Dirichlet 0.1, 13 rounds of 20 steps", "digits", _SHORT, (_SKEW.format(0.1),)),
    "digits-0.5": Setting("digits, Dirichlet 0.5, 13 rounds of 20 steps", "digits", _SHORT, (_SKEW.format(0.5),), FEW),
    "digits-0.05-40": Setting("digits, Dirichlet 0.05, 40 rounds of 20 steps", "digits", Schedule(37, 20, 3), (), FEW),
    "mnist-0.05": Setting(
        "10,000 images of MNIST, Dirichlet 0.05, 13 rounds of 20 steps",
        *("mnist", _SHORT, (_PART.format("mnist"), _SKEW.format(0.05))),
    ),
    "fashion-0.05": Setting(
        "10,000 images of Fashion-MNIST, Dirichlet 0.05, 13 rounds of 20 steps",
        *("fashion_mnist", _SHORT, (_PART.format("fashion_mnist"), _SKEW.format(0.05)), FEW),
    ),
    "cifar10-part": Setting(
        "10,000 images of CIFAR-10, Dirichlet 0.1, 25 rounds of 20 steps",
        *("cifar10_small", Schedule(20, 20, 5), (_PART.format("cifar10"),)),
        generator_updates=1000,
        rates=_FAST,
    ),
    "cifar10-part-one-shot": Setting(
        "10,000 images of CIFAR-10, Dirichlet 0.1, one round of 500 steps",
        *("cifar10_small", Schedule(1, 500, 0, student=1500), (_PART.format("cifar10"),)),
        generator_updates=1000,
        rates=_FAST,
    ),
    "cifar10-0.1": Setting(
        "CIFAR-10, Dirichlet 0.1, 10 rounds of 100 steps",
        *("cifar10_small", _LONG, ("data/cifar10_parquet",), FEW),
        rates=_FAST,
    ),
    "cifar10-0.5": Setting(
        "CIFAR-10, Dirichlet 0.5, 10 rounds of 100 steps",
        *("cifar10_small", _LONG, ("data/cifar10_parquet", _SKEW.format(0.5)), FEW),
        rates=_FAST,
    ),
    "cifar100-0.1": Setting(
        "CIFAR-100, Dirichlet 0.1, 10 rounds of 100 steps",
        *("cifar10_small", _LONG, ("data/cifar100_parquet",), FEW),
        rates=_FAST,
    ),
    "digits-0.05-widths": Setting(
        _DIGITS_OF.format("three widths, moving windows"), "heterogeneous_digits", _SHORT, (), WIDTHS
    ),
    "digits-0.05-widths-first": Setting(
        _DIGITS_OF.format("three widths, first channels"),
        *("heterogeneous_digits", _SHORT, ("clients/three_widths_first",), FEW),
    ),
    "digits-0.05-widths-random": Setting(
        _DIGITS_OF.format("three widths, random channels"),
        *("heterogeneous_digits", _SHORT, ("clients/three_widths_random",), FEW),
    ),
    "mnist-0.05-widths": Setting(
        _MNIST_OF.format("three widths, moving windows"),
        *("mnist", _SHORT, (_PART.format("mnist"), _SKEW.format(0.05), "clients/three_widths"), FEW),
    ),
    "digits-0.05-architectures": Setting(
        _DIGITS_OF.format("three architectures"),
        *("heterogeneous_digits", _SHORT, ("clients/three_architectures",), ARCHITECTURES),
    ),
    "digits-0.05-released": Setting(
        "digits, Dirichlet 0.05, 13 rounds of 20 steps, released budgets, one seed",
        *("digits", _SHORT, (), tuple(name for name in RELEASED if name != "co_boosting_released"), (0,), True),
    ),
    "digits-0.05-one-shot-released": Setting(
        "digits, Dirichlet 0.05, one round of 200 steps, released budgets, one seed",
        *("digits", _ONCE, (), RELEASED, (0,), True),
    ),
}
"""By priority."""
PARTS = {
    part: f"benchmarks/ablation/{part}.yaml"
    for part in (
        *("labels_alone", "owners", "plain_ensemble", "prior_gate", "transformer_gate", "prototypes", "teacher_alone"),
        *("plain_views", "own_head", "gans"),
    )
}
"""One thing changed: files whose first line says what."""
PARTED = {
    "digits-0.05": ((*PARTS.values(), "prototype_head"), (0, 1, 2, 3, 4)),
    "fashion-0.05": (tuple(PARTS.values()), (0, 1, 2)),
    "cifar10-part-one-shot": ((PARTS["labels_alone"], PARTS["plain_ensemble"]), (0, 1)),
}
"""Rows and seeds of the settings whose parts are changed, at the rates of their configurations."""
SETTINGS |= {
    f"{name}{PARTS_OF}": replace(SETTINGS[name], algorithms=(MOSAIC, *rows), seeds=seeds, rates=())
    for name, (rows, seeds) in PARTED.items()
}


def in_the_same_time(name: str) -> Setting | None:
    """Return FedAvg for as many rounds as fit into Mosaic's time; nothing for a single round, or before both ran."""
    setting = SETTINGS[name]
    once = setting.schedule.collaborative + setting.schedule.fine_tune == 1
    if once or setting.own_budget or not setting.is_complete(name, (MOSAIC, "fedavg")):
        return None
    schedule, fine_tune = setting.schedule, setting.schedule.fine_tune or 3
    rounds = round((schedule.collaborative + schedule.fine_tune) * time_ratio(name))
    longer = replace(schedule, collaborative=max(1, rounds - fine_tune), fine_tune=fine_tune)
    return replace(setting, schedule=longer, algorithms=("fedavg",))


def time_ratio(name: str) -> float:
    """Return Mosaic's time in FedAvg's, each without measurements on the test split, which are no part of a method.

    A machine's speed changes from minute to minute. So either run's seconds are counted in those of its own local
    training, which is the same work in both.
    """
    ours, theirs = (mean(_in_local_training(each) for each in of_row(name, row)) for row in (MOSAIC, "fedavg"))
    return ours / theirs


def _in_local_training(outcome: Outcome) -> float:
    phases = outcome.summary["phases"]
    return float((outcome.summary["seconds"] - phases["evaluation"]) / phases["local training"])


def of_row(name: str, row: str) -> list[Outcome]:
    """Return the outcomes of an algorithm, by seed."""
    return sorted((each for each in outcomes(name) if each.algorithm == row), key=lambda each: each.seed)


@cache
def outcomes(name: str) -> list[Outcome]:
    """Return what the runs of a setting have left."""
    return Outcome.read_all(RESULTS / name / "outcomes.jsonl")


def accuracies(name: str) -> dict[str, list[float]]:
    """Return test accuracies by algorithm: of the global model, or else the mean over clients' own."""
    found: dict[str, list[float]] = {}
    for outcome in outcomes(name):
        accuracy = outcome.last if outcome.last is not None else outcome.own
        assert accuracy is not None, f"a finished run of {outcome.algorithm} has neither accuracy"
        found.setdefault(outcome.algorithm, []).append(100 * accuracy)
    return found


def overview_table(names: Iterable[str], columns: Sequence[str] = OVERVIEW) -> list[str]:
    """Return a line for each setting: FedAvg, the prototype head, Mosaic, and FedAvg in Mosaic's time."""
    lines = []
    for name in (name for name in names if SETTINGS[name].is_complete(name, (MOSAIC, "fedavg"))):
        longer, longer_name = in_the_same_time(name), name + SAME_TIME
        rows, setting = ("fedavg", "prototype_head", MOSAIC), SETTINGS[name]
        cells = [_mean(of_row(name, row)) if setting.is_complete(name, (row,)) else "" for row in rows]
        gains = [_gain(name, name)]
        if longer is not None and longer.is_complete(longer_name):
            gains += [f"{_mean(of_row(longer_name, 'fedavg'))} ({rounds_run(longer_name)})", _gain(name, longer_name)]
        every = [SETTINGS[name].means, *cells, *gains, *([""] * (3 - len(gains))), f"{time_ratio(name):.2f}"]
        line = dict(zip(OVERVIEW, every, strict=True))
        lines.append([line[column] for column in columns])
    return table(columns, lines)


def rounds_run(name: str) -> int:
    """Return the rounds of runs that are there; those in Mosaic's time keep theirs while the ratio of times wavers."""
    schedule = yaml.safe_load((RESULTS / name / "schedule.yaml").read_text())["federation"]["schedule"]
    return int(schedule["collaborative_rounds"] + schedule["fine_tune_rounds"])


def _mean(found: Sequence[Outcome]) -> str:
    return mean_and_error([each.last for each in found if each.last is not None]) if found else ""


def _gain(name: str, other: str) -> str:
    """Return Mosaic minus FedAvg of a setting, paired by seeds."""
    pairs = zip(of_row(name, MOSAIC), of_row(other, "fedavg"), strict=True)
    return mean_and_error([(ours.last or 0.0) - (theirs.last or 0.0) for ours, theirs in pairs], signed=True)


def stages_table(names: Iterable[str]) -> list[str]:
    """Return what every stage of Mosaic is worth on the test split: the controls that need no generator among them."""
    lines = []
    for name in names:
        stages = [each.summary.get("stages", {}) for each in of_row(name, MOSAIC)]
        if stages and all("student" in each for each in stages):
            found = ([each[stage] for each in stages if stage in each] for stage in STAGES)
            cells = [mean_and_error(values) if len(values) == len(stages) else "" for values in found]
            behind = mean_and_error([each["student"] - each["gated teacher"] for each in stages], signed=True)
            lines.append([SETTINGS[name].means, *cells, behind])
    return table(["data and rounds", *STAGES.values(), "student - teacher"], lines)


def summary_table(names: Iterable[str]) -> list[str]:
    """Return a line for each algorithm and a column for each setting of which Mosaic and FedAvg are there.

    Rows of released budgets are added. The best method with one global model and the common budget is in bold. Below
    the table it says when, where and how long was measured.
    """
    shown = [name for name in names if SETTINGS[name].is_complete(name, (MOSAIC, "fedavg"))]
    sources = {name: [name, *(each for each in (name + RELEASED_BUDGETS,) if _there(each))] for name in shown}
    columns = {name: {row: v for source in of for row, v in accuracies(source).items()} for name, of in sources.items()}
    rivals = {*DISTILLING, *REPLAYING, *AVERAGING} - {"fedbn"}
    best = {name: max((mean(v) for row, v in of.items() if row in rivals), default=0.0) for name, of in columns.items()}
    lines = []
    for row in (MOSAIC, *REPLAYING, *EVERY[1:], *RELEASED):
        if any(row in found for found in columns.values()):
            mark = " *" if row in ("fedbn", "local_only") else " **" if row in RELEASED else ""
            lines.append([f"{_called(row)}{mark}", *(_cell(columns[name].get(row), best[name]) for name in shown)])
    header = ["algorithm", *(SETTINGS[name].means for name in shown)]
    return [*table(header, lines), "", measured(source for of in sources.values() for source in of)]


def parts_table(names: Iterable[str]) -> list[str]:
    """Return a line for each change of one thing, and for each setting two columns: test and validation accuracy.

    First those of Mosaic, then differences to it, paired by seeds; empty where it has not been run.
    """
    shown = [name for name in names if SETTINGS[name].is_complete(name)]
    kinds = {"test": "last", "validation": "validated"}
    rows = dict.fromkeys(row for name in shown for row in SETTINGS[name].algorithms)
    lines = []
    for row in rows:
        cells = []
        for name, kind in product(shown, kinds.values()):
            ours, theirs = ([getattr(each, kind) for each in of_row(name, of)] for of in (row, MOSAIC))
            found = ours if row == MOSAIC or not ours else [a - b for a, b in zip(ours, theirs, strict=True)]
            cells.append(mean_and_error(found, signed=row != MOSAIC) if found else "")
        lines.append([_change(row), *cells])
    header = [f"{SETTINGS[name].means}: {kind}" for name in shown for kind in kinds]
    return [*table(["changed", *header], lines), "", measured(shown)]


def _change(row: str) -> str:
    """Return what is changed: the first line of a file, or the name of a preset."""
    if not row.endswith(".yaml"):
        return "nothing" if row == MOSAIC else f"`{row}`"
    return (ROOT / row).read_text().splitlines()[0].removeprefix("# ").removesuffix(".")


def own_models_table(names: Iterable[str]) -> list[str]:
    """Return a line for each algorithm, and for each setting two columns: the global model, and those of clients' own.

    Mean ± standard deviation over seeds; empty where an algorithm has no such model, or has not been run.
    """
    shown = [name for name in names if SETTINGS[name].is_complete(name, (MOSAIC,))]
    kinds = {"global model": "last", "own models": "own"}
    lines = []
    for row in (each for each in ARCHITECTURES if any(of_row(name, each) for name in shown)):
        found = [[getattr(each, kind) for each in of_row(name, row)] for name in shown for kind in kinds.values()]
        cells = ["" if None in values or not values else _cell([100 * each for each in values]) for values in found]
        lines.append([_called(row), *cells])
    header = [f"{SETTINGS[name].means}: {kind}" for name in shown for kind in kinds]
    return [*table(["algorithm", *header], lines), "", measured(shown)]


def _called(row: str) -> str:
    return f"`{'mosaic' if row == MOSAIC else row}`"


def _there(name: str) -> bool:
    return name in SETTINGS and SETTINGS[name].is_complete(name)


def _cell(accuracies: Sequence[float] | None, best: float | None = None) -> str:
    if accuracies is None:
        return ""
    text = f"{mean(accuracies):.2f}"
    spread = f" ± {stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
    return f"**{text}**{spread}" if mean(accuracies) == best else f"{text}{spread}"


def measured(names: Iterable[str]) -> str:
    """Say when and where these settings were run, and how long it took."""
    every = [outcome for name in names for outcome in outcomes(name)]
    if not every:
        return "Nothing has been measured yet."
    days = sorted(outcome.date for outcome in every)
    machines = "; ".join(sorted({outcome.machine for outcome in every}))
    minutes = sum(outcome.summary["seconds"] for outcome in every) / 60
    when = " to ".join(dict.fromkeys([days[0], days[-1]]))
    return f"Measured {when} on {machines}: {len(every)} runs, {minutes:.0f} minutes of one core."


def pages(names: Iterable[str]) -> list[str]:
    """Return every setting's own tables."""
    lines: list[str] = []
    for name in names:
        for each in (name, name + SAME_TIME):
            page, means = RESULTS / each / "comparison.md", SETTINGS[name].means
            if page.is_file():
                longer = f": FedAvg in Mosaic's time, {rounds_run(each)} rounds" if each != name else ""
                lines += [f"### {means}{longer}", "", page.read_text().strip(), ""]
    return lines[:-1]


def write_tables(root: Path) -> None:
    """Write the tables of docs/results.md and docs/clients.md, and the one of README.md."""
    methods = [name for name in SETTINGS if not name.endswith(PARTS_OF)]
    matched = [name for name, setting in SETTINGS.items() if setting.algorithms == EVERY]
    blocks = {"summary": summary_table(matched), "overview": overview_table(SETTINGS), "stages": stages_table(methods)}
    replace_blocks(root / "docs" / "results.md", {**blocks, "tables": pages(methods)})
    widths, architectures = ([name for name in SETTINGS if kind in name] for kind in ("-widths", "-architectures"))
    models = {"widths": summary_table(widths), "architectures": own_models_table(architectures)}
    replace_blocks(root / "docs" / "clients.md", models)
    parts = parts_table(name for name in SETTINGS if name.endswith(PARTS_OF))
    replace_blocks(root / "docs" / "ablation.md", {"parts": parts})
    replace_blocks(root / "README.md", {"results": overview_table(ROWS_IN_README, IN_README)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["run", "table"])
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=SETTINGS)
    rows = sorted({row for setting in SETTINGS.values() for row in setting.algorithms})
    parser.add_argument("--algorithms", nargs="*", default=[], choices=rows)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    if options.command == "table":
        write_tables(ROOT)
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    os.chdir(ROOT)  # pages name configurations as a reader would
    from mosaic.cli.main import main as mosaic

    for name in options.settings:
        mosaic(SETTINGS[name].arguments(name, options.processes, options.algorithms))
        outcomes.cache_clear()
        longer = in_the_same_time(name)
        if longer is not None and "fedavg" in (options.algorithms or longer.algorithms):
            mosaic(longer.arguments(name + SAME_TIME, options.processes))


if __name__ == "__main__":
    main()
