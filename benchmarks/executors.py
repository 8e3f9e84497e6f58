"""How much faster are two workers of one thread than one?

FedAvg on the digits with ten clients runs serially with one thread and with two workers of one thread each, in turn.
What counts are the seconds of local training in every round but the first, as the run's ledger has them: starting
processes is left out. Reported are medians over the pairs, and the ratio of neighbours in time, so that a machine that
slows down slows both. The runs must agree in every bit of the final model.

On a machine with other work the two processes do not get the two cores that they need. So there is a second ratio, of
CPU seconds: those of the serial process over those of the first of the two, which trains half of the clients and does
all that is not training. It is what the first ratio would be on cores of their own. With Ray, whose first process does
not train, there is none.

    python benchmarks/executors.py [--executors Ranks Ray] [--steps 20 100] [--pairs 3]

Ray is left out where it is not installed.
"""

import argparse
import contextlib
import importlib.util
import io
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")

import torch
from measuring import Figure, medians, ratio, show
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mosaic.cli.main import main as mosaic
from mosaic.executors import ClientExecutor, RanksExecutor, RayExecutor, SerialExecutor
from mosaic.messages import Reply, Request, TrainReply

BAR = 1.5
RAYS_PAIRS = 3
"""Ray takes a quarter of a minute or more to start, so that more would take longer than all other benchmarks."""
EXECUTORS: dict[str, type[ClientExecutor]] = {"Serial": SerialExecutor, "Ranks": RanksExecutor, "Ray": RayExecutor}
CONFIG = Path(__file__).parent.parent / "configs" / "digits.yaml"
PLACE = "mosaic.executors"


class Times(NamedTuple):
    """Seconds of local training in a round: on the clock, and of the first process's CPU."""

    wall: float
    cpu: float


@contextlib.contextmanager
def training_seconds(
    executor: type[ClientExecutor], clock: Callable[[], float] = time.process_time
) -> Iterator[list[float]]:
    """Note the seconds, by default of its CPU, that this process spends in every round of local training."""
    noted: list[float] = []
    original = executor.map

    def noting(self: ClientExecutor, requests: Iterable[Request], deadline: float | None = None) -> Iterator[Reply]:
        spent, replies, trains = 0.0, original(self, requests, deadline), False
        while True:
            start = clock()
            reply = next(replies, None)
            spent += clock() - start
            if reply is None:
                break
            trains = isinstance(reply, TrainReply)
            yield reply
        if trains:
            noted.append(spent)

    executor.map = noting  # type: ignore[method-assign]
    yield noted
    executor.map = original  # type: ignore[method-assign]


def run(folder: Path, name: str, steps: int, rounds: int) -> tuple[Times, dict[str, torch.Tensor]]:
    """Return the medians over rounds, and the final model."""
    flags = [
        *("fit", f"--config={CONFIG}", "--algorithm=mosaic.algorithms.FedAvg", f"--federation.run_dir={folder}"),
        *(f"--federation.schedule.local_steps={steps}", "--federation.schedule.fine_tune_rounds=0"),
        *(f"--federation.schedule.collaborative_rounds={rounds}", f"--executor={PLACE}.{name}Executor"),
        "--executor.threads=1",
    ]
    quiet = contextlib.redirect_stdout(io.StringIO())
    with quiet, contextlib.redirect_stderr(io.StringIO()), training_seconds(EXECUTORS[name]) as cpu:
        mosaic(flags if name == "Serial" else [*flags, "--executor.workers=2"])
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    seconds = [event.value for event in events.Scalars("time/local training")][1:]
    times = Times(statistics.median(seconds), statistics.median(cpu[1:]))
    return times, torch.load(folder / "global.ckpt", weights_only=True)["state_dict"]


def compare(name: str, steps: int, pairs: int, rounds: int) -> list[Figure]:
    """Return how many times as fast two workers are, on the clock and by CPU seconds."""
    serial, parallel = [], []
    for _ in range(pairs):
        with tempfile.TemporaryDirectory() as folder:
            alone, ours = run(Path(folder) / "serial", "Serial", steps, rounds)
            together, theirs = run(Path(folder) / name, name, steps, rounds)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), "the executors disagree"
        serial.append(alone)
        parallel.append(together)
    found = []
    for clock in ("wall",) if name == "Ray" else Times._fields:
        one, two = ([getattr(times, clock) for times in runs] for runs in (serial, parallel))
        seconds = {"serial": one, "two workers": two}
        unit = " (CPU seconds)" if clock == "cpu" else ""
        title = f"(c) {name}, {steps} local steps, serial over two workers{unit}"
        found.append(Figure(title, ratio(seconds, "serial", "two workers"), BAR, False, medians(seconds)))
    return found


def installed() -> list[str]:
    """Return the executors that can run here."""
    return ["Ranks", "Ray"] if importlib.util.find_spec("ray") else ["Ranks"]


def figures(
    pairs: int, names: Sequence[str] | None = None, steps: Sequence[int] = (20, 100), rounds: int = 8
) -> list[Figure]:
    """Return the figures of some executors and numbers of local steps."""
    logging.getLogger("mosaic").setLevel(logging.ERROR)
    turns = {"Ray": min(pairs, RAYS_PAIRS)}
    cases = [(name, count) for name in names or installed() for count in steps]
    return [figure for name, count in cases for figure in compare(name, count, turns.get(name, pairs), rounds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--executors", nargs="+", default=installed(), choices=["Ranks", "Ray"])
    parser.add_argument("--steps", nargs="+", type=int, default=[20, 100])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    raise SystemExit(not show(figures(options.pairs, options.executors, options.steps, options.rounds)))


if __name__ == "__main__":
    main()
