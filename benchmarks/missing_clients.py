"""What does a run lose where 30 % of all requests fail? Mosaic on digits, ten clients, three seeds, by kind of fault.

    python benchmarks/missing_clients.py run      # what results/missing_clients.json lacks; half a minute a run
    python benchmarks/missing_clients.py table    # writes the table of docs/faults.md

Which requests fail depends on round, client, kind of request and attempt alone, so that they are the same ones for
every kind of fault. A fifth of the clients is enough for a phase, and no request is asked again but in one case. The
deadline of two seconds wants a machine that has nothing else to do.
"""

import contextlib
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "missing_clients.json"
SHARE = 0.3
SEEDS = (0, 1, 2)
KINDS = ("exception", "crash", "nan", "shape", "sender", "garbage", "huge", "delay")
MIXED = "all kinds mixed"
NONE = "none"
RETRIED = f"{MIXED}, 2 retries"
OFTEN = f"{MIXED}, 3 distilling rounds"
UNDISTURBED = "none, 3 distilling rounds"
RANKS = "crash of processes"
Result = dict[str, Any]

os.environ["OMP_NUM_THREADS"] = "1"


def cases() -> Iterator[tuple[str, int]]:
    """Yield every kind of fault with every seed; processes are really killed with the first seed alone."""
    yield from ((kind, seed) for kind in (NONE, MIXED, RETRIED) for seed in SEEDS)
    yield from ((kind, 0) for kind in (*KINDS, RANKS))
    yield from ((kind, seed) for kind in (OFTEN, UNDISTURBED) for seed in SEEDS)
    yield from ((kind, seed) for seed in SEEDS[1:] for kind in KINDS)


def flags(kind: str) -> list[str]:
    """Return what a run with this kind of fault is told beside seed and folder."""
    often = ["--federation.schedule.distill_rounds=[8,9,10]"] if kind in (OFTEN, UNDISTURBED) else []
    if kind.startswith(NONE):
        return often
    mixed = kind.startswith(MIXED)
    shares = dict.fromkeys(KINDS, SHARE / len(KINDS)) if mixed else {kind.split()[0]: SHARE}
    ranks = ["--executor=mosaic.executors.RanksExecutor", "--executor.workers=2", "--executor.threads=1"]
    deadline = ["--federation.faults.deadline=2"] if "delay" in shares else []
    more = [f"--executor.faults={json.dumps(shares)}", "--federation.faults.quorum=0.2", *deadline]
    if kind == RETRIED:
        more.append("--federation.faults.retries=2")
    return [*(ranks if kind == RANKS else []), *more, *often]


def run(kind: str, seed: int) -> Result:
    """Run once and return the figures."""
    from mosaic.cli.main import main

    with tempfile.TemporaryDirectory(prefix="mosaic-missing-") as folder:
        place, begun = Path(folder) / "run", time.perf_counter()
        common = ["fit", f"--config={ROOT / 'configs' / 'digits.yaml'}", f"--seed_everything={seed}"]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
            try:
                main([*common, f"--data.seed={seed}", f"--federation.run_dir={place}", *flags(kind)])
            except SystemExit as left:
                raise RuntimeError(f"{kind}, seed {seed}: code {left.code}: {said.getvalue()[-1000:]}") from left
        told = json.loads((place / "summary.json").read_text())
    return {
        "kind": kind,
        "seed": seed,
        "test_accuracy": told["test_accuracy"],
        "distilled": told["distilled"],
        "generators": len(told["generators"]),
        "failed": len(told["failed"]),
        "seconds": round(time.perf_counter() - begun, 1),
    }


def read() -> list[Result]:
    return list(json.loads(RESULTS.read_text())) if RESULTS.is_file() else []


def run_all() -> None:
    """Run what is missing, and write after every run."""
    for kind, seed in cases():
        found = read()
        if not any((each["kind"], each["seed"]) == (kind, seed) for each in found):
            found.append(run(kind, seed))
            print(found[-1], flush=True)
            RESULTS.write_text(f"{json.dumps(found, indent=2)}\n")


def write_table() -> None:
    """Write the table, each kind beside the same seeds, and as many distilling rounds, without a fault."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from tables import mean_and_error, replace_blocks, table

    found = read()
    reached = {(each["kind"], each["seed"]): each["test_accuracy"] for each in found}
    lines: list[list[str]] = []
    for kind in (NONE, MIXED, *KINDS, RANKS, RETRIED, UNDISTURBED, OFTEN):
        runs = [each for each in found if each["kind"] == kind]
        accuracies, lost = [each["test_accuracy"] for each in runs], [each["failed"] for each in runs]
        beside = UNDISTURBED if kind == OFTEN else NONE
        against = [each["test_accuracy"] - reached[beside, each["seed"]] for each in runs]
        difference = "" if kind.startswith(NONE) else mean_and_error(against, signed=True)
        students = f"{sum(each['distilled'] for each in runs)} of {len(runs)}"
        cells = [f"{len(runs)}", mean_and_error(accuracies), difference, f"{statistics.mean(lost):.0f}", students]
        if lines and lines[-1][1:] == cells:
            lines[-1][0] += f"; {kind}"
        else:
            lines.append([kind, *cells])
    head = ["fault", "runs that completed", "test accuracy, %", "difference", "requests lost", "students accepted"]
    replace_blocks(ROOT / "docs" / "faults.md", {"missing clients": table(head, lines)})


if __name__ == "__main__":
    {"run": run_all, "table": write_table}[sys.argv[1]]()
