"""Kill runs, damage them, fill their disk, signal them, feed them nonsense, let clients fail: what becomes of them.

    python benchmarks/faults.py [--seed 0] [--trials 8] [--only kills signals ...]

Every trial is a run of seconds, or two where the second goes on with the first. What is counted as good: it ends with
the very bits of a run that nothing has befallen, or is refused in one line and leaves nothing. All kinds together take
less than ten minutes and write the table of docs/reliability.md.
"""

import argparse
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["OMP_NUM_THREADS"] = "1"

from tables import replace_blocks, table  # noqa: E402
from tests.forks import ForkedMosaic  # noqa: E402
from tests.small_runs import assert_same_run, tiny_fit  # noqa: E402

from mosaic.client.worker import Worker  # noqa: E402
from mosaic.executors import SerialExecutor  # noqa: E402
from mosaic.messages import EvaluateReply, Failed, GeneratorReply, PrototypeReply, Reply, Request, TrainReply  # noqa: E402
from mosaic.runs.snapshots import list_snapshots  # noqa: E402

LONGER = ("--federation.schedule.collaborative_rounds=3", "--federation.schedule.distill_rounds=[2]")
EXPECTED = {"identical", "refused in one line", "went on without the client, by name", "as documented, then identical"}


@dataclass(frozen=True)
class End:
    """How a process has ended.

    Attributes:
        code: of its exit; the negative number of a signal that has killed it.
        said: all that it has printed.
    """

    code: int
    said: str

    @property
    def is_refusal(self) -> bool:
        """Whether it is one line and code 2."""
        lines = [line for line in self.said.splitlines() if line.startswith("mosaic: error: ")]
        return self.code == 2 and len(lines) == 1 and "Traceback" not in self.said


def run(arguments: Sequence[str], instant: float | None = None, number: int = signal.SIGKILL, largest: int = 0) -> End:
    """Run the command in a fork of this process, which has imported everything.

    Args:
        arguments: of the command.
        instant: seconds after which it gets a signal.
        number: of the signal.
        largest: file in bytes that it may write, as if its disk were full; 0 for any.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if largest:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, before[1]))
    try:
        command = [sys.executable, "-m", "mosaic", *arguments]
        process = ForkedMosaic(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    if instant is not None:
        time.sleep(instant)
        process.send_signal(number)
    said, _ = process.communicate()
    return End(process.returncode, said)


class Campaign:
    """Trials of one kind against a run that nothing befalls.

    Args:
        folder: where runs may lie.
        trials: of each kind that is drawn by chance.
        seed: of what is drawn.
    """

    def __init__(self, folder: Path, trials: int, seed: int) -> None:
        self.folder, self.trials, self.random = folder, trials, random.Random(seed)
        self.undisturbed = folder / "undisturbed"
        begun = time.perf_counter()
        assert (end := run(self.arguments(self.undisturbed))).code == 0, end.said
        self.seconds = time.perf_counter() - begun

    def arguments(self, folder: Path, *more: str) -> list[str]:
        """Return the command line of a tiny run of Mosaic."""
        return tiny_fit(folder, *LONGER, *more)

    def trial(self) -> Path:
        """Return a place where nothing is."""
        shutil.rmtree(self.folder / "trial", ignore_errors=True)
        return self.folder / "trial" / "run"

    def after(self, place: Path) -> str:
        """Go on with what is there, to the end; say what has come of it."""
        end = run([*self.arguments(place), "--ckpt_path=auto"])
        if end.code:
            return "refused in one line" if end.is_refusal else f"code {end.code}: {end.said[-300:]}"
        try:
            assert_same_run(self.undisturbed, place)
        except AssertionError:
            return "other bits"
        return "identical"

    def instants(self, count: int) -> Iterator[float]:
        """Draw instants of a run, the first and the last moments among them."""
        return (self.random.uniform(0.0, 1.05 * self.seconds) for _ in range(count))

    def kills(self) -> Iterator[str]:
        """SIGKILL at a random instant."""
        for instant in self.instants(self.trials):
            place = self.trial()
            run(self.arguments(place), instant)
            yield self.after(place)

    def signals(self) -> Iterator[str]:
        """SIGTERM, SIGUSR1 and Ctrl-C at random instants."""
        codes = {signal.SIGTERM: 75, signal.SIGUSR1: 75, signal.SIGINT: 130}
        for index, instant in enumerate(self.instants(self.trials)):
            place, number = self.trial(), list(codes)[index % len(codes)]
            end = run(self.arguments(place), instant, number)
            said = end.code in (0, codes[number]) and "Traceback" not in end.said
            result = self.after(place)
            yield f"as documented, then {result}" if said else f"{number.name}: code {end.code}, then {result}"

    def disk(self) -> Iterator[str]:
        """A disk that takes no file beyond some size."""
        for largest in (500, 5_000, 50_000, 120_000):
            place = self.trial()
            end = run(self.arguments(place), largest=largest)
            said = end.code == 0 or (end.code == 1 and "mosaic: error: the disk of" in end.said)
            result = self.after(place)
            yield f"as documented, then {result}" if said else f"code {end.code}: {end.said[-300:]}, then {result}"

    def damage(self) -> Iterator[str]:
        """Files of a run that stopped after its second round: flipped, cut, emptied, missing."""
        stopped = self.folder / "stopped"
        end = run(self.arguments(stopped, "--federation.schedule.collaborative_rounds=2"))
        assert end.code == 0, end.said
        for name in ("summary.json", "global.ckpt"):
            (stopped / name).unlink()
        spoils: dict[str, Callable[[Path], object]] = {
            "flipped": flip,
            "cut": lambda file: os.truncate(file, file.stat().st_size // 2),
            "emptied": lambda file: os.truncate(file, 0),
            "missing": Path.unlink,
        }
        newest = str(list_snapshots(stopped / "rounds")[-1].relative_to(stopped))
        names = [f"{newest}/server.safetensors", f"{newest}/run.json", "config.yaml", "metrics.csv"]
        for name in names:
            for how, spoil in spoils.items():
                if (name, how) in (("config.yaml", "flipped"), ("metrics.csv", "flipped")):
                    continue  # a letter in a comment, or a digit of a table: nobody could tell
                place = self.trial()
                shutil.copytree(stopped, place)
                spoil(place / name)
                yield self.after(place)

    def inputs(self) -> Iterator[str]:
        """Configurations and values that cannot be meant."""
        for flag in WRONG:
            place = self.trial()
            end = run(self.arguments(place, flag))
            left = place.exists()
            yield "refused in one line" if end.is_refusal and not left else f"{flag}: code {end.code}, left {left}"
        for name, data in MALFORMED.items():
            place, file = self.trial(), self.folder / "malformed.yaml"
            file.write_bytes(data)
            end = run(self.arguments(place, f"--config={file}"))
            yield "refused in one line" if end.is_refusal and not place.exists() else f"{name}: code {end.code}"

    def clients(self) -> Iterator[str]:
        """One of four clients that fails in every round, or sends what was not asked for."""
        for fault in FAULTS:
            place = self.trial()
            executor = ("--executor=faults.FaultyExecutor", f"--executor.fault={fault}")
            end = run(self.arguments(place, *executor))
            named = "client 2 failed" in end.said
            good = end.code == 0 and named and "diverged" not in end.said
            yield "went on without the client, by name" if good else f"{fault}: code {end.code}: {end.said[-300:]}"


KINDS = ("kills", "signals", "disk", "damage", "inputs", "clients")
PROMISES = {
    "kills": "a killed run goes on, and ends with the bits of one that was left alone",
    "signals": "SIGTERM and SIGUSR1 end a run with code 75, Ctrl-C with 130; it goes on likewise",
    "disk": "a disk that takes no more ends a run with code 1 and a line that names it; it goes on likewise",
    "damage": "what was damaged is named and refused, and nothing is trained on it",
    "inputs": "a request that cannot be meant is one line that names the key, code 2, and leaves no folder",
    "clients": "a client that fails or sends something else is left out by name, and the run goes on",
}
WRONG = (
    *("--federation.schedule.learning_rate=-1", "--federation.schedule.learning_rate=1e308"),
    *("--model.optimizer.weight_decay=-1", "--model.optimizer.momentum=nan", "--seed_everything=-1", "--data.seed=-1"),
    *("--trainer.devices=-1", "--federation.run_dir=", f"--federation.run_dir={'x' * 300}", "--data.batch_size=null"),
    *("--model.net=mosaic.nets.Nothing", "--model.net.width=0", "--data.partition.alpha=nan", "--executor.threads=0"),
    *("--algorithm.generation=os.path", "--federation.schedule.local_stepz=3"),
)
MALFORMED = {
    "a key twice": b"seed_everything: 1\nseed_everything: 2\n",
    "an anchor that refers to itself": b"a: &a\n  b: *a\n",
    "UTF-16": "seed_everything: 1\n".encode("utf-16"),
    "binary": bytes(range(256)),
    "an open bracket": b"clients: [1, 2\n",
    "a list": b"- 1\n- 2\n",
}


def flip(file: Path) -> None:
    """Turn one bit in the middle of a file."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _spoilt(reply: Any) -> Any:
    """Put a NaN into the first tensor of floats that a reply holds."""
    match reply:
        case TrainReply(model=tensors) | GeneratorReply(generator=tensors):
            name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
            spoilt = {**tensors, name: tensors[name] * float("nan")}
            return replace(reply, model=spoilt) if isinstance(reply, TrainReply) else replace(reply, generator=spoilt)
        case PrototypeReply():
            return replace(reply, prototypes=reply.prototypes * float("nan"))
        case EvaluateReply():
            return replace(reply, loss=reply.loss * float("nan"))
    return reply


def _raise(_: Reply) -> Reply:
    raise ValueError("my disk is broken")


def _exit(_: Reply) -> Reply:
    sys.exit(0)


FAULTS: dict[str, Callable[[Any], Any]] = {
    "raises": _raise,
    "nothing": lambda _: None,
    "a dict": lambda reply: {"client": reply.client},
    "another's": lambda reply: replace(reply, client=3),
    "says that it failed": lambda reply: Failed(reply.client, "ValueError in the client's code"),
    "NaN": _spoilt,
}


class FaultyExecutor(SerialExecutor):
    """Answers as it should, but for client 2.

    Args:
        fault: what becomes of its replies, see ``FAULTS``.
    """

    def __init__(self, fault: str) -> None:
        super().__init__(threads=1)
        self.fault = fault

    def _handle(self, worker: Worker, request: Request, *more: Any) -> Reply:
        reply = super()._handle(worker, request, *more)
        return FAULTS[self.fault](reply) if request.client == 2 else reply


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    options = parser.parse_args()
    import mosaic.cli.lightning  # noqa: F401  # what every fork needs

    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell has started in the background ignores it

    begun, lines, all_good = time.perf_counter(), [], True
    with tempfile.TemporaryDirectory(prefix="mosaic-faults-") as folder:
        campaign = Campaign(Path(folder), options.trials, options.seed)
        for kind in options.only:
            counts = Counter(getattr(campaign, kind)())
            all_good &= counts.keys() <= EXPECTED
            told = "; ".join(f"{count} {result}" for result, count in counts.most_common())
            lines.append([PROMISES[kind], getattr(Campaign, kind).__doc__.rstrip("."), str(counts.total()), told])
            print(f"{kind}: {told}", flush=True)
    print(f"{time.perf_counter() - begun:.0f} s")
    if options.only == list(KINDS) and all_good:
        note = f"`python benchmarks/faults.py`, {date.today()}, {time.perf_counter() - begun:.0f} seconds."
        page = table(["promise", "how it is tried", "trials", "what came of it"], lines)
        replace_blocks(ROOT / "docs" / "reliability.md", {"faults": [*page, "", note]})
    sys.exit(0 if all_good else 1)


if __name__ == "__main__":
    main()
