"""All speed figures of the package, each a ratio measured in one run, written to ``benchmarks/results.md``.

    python benchmarks/bench.py [--only phase_overhead executors ...]

On a machine that does nothing else this takes about ten minutes. Every benchmark is a file of its own beside this one,
runs in a process of its own, and says at its top what it measures; where some are asked for, the others keep the lines
that they have.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import date
from importlib import import_module
from pathlib import Path

from measuring import HEADER, Figure, show

HERE = Path(__file__).parent
TABLE, STORE = HERE / "results.md", HERE / "results" / "speed.json"
PAIRS = {
    "phase_overhead": 9,
    "fedavg_loop": 5,
    "executors": 7,
    "side_by_side": 5,
    "teacher_forward": 9,
    "generator_training": 7,
    "input_pipeline": 15,
}
"""Benchmarks in the order of the table, and how often each takes turns."""
INTRODUCTION = """# Speed

Ratios, each measured in one run by the file named in its line, with variants taking turns, so that a machine that slows
down slows all of them. `make bench` writes this page. [Other results](other_results.md): memory, start-up, precision,
and where the time of the demo goes. `benchmarks/gpu.py` is for GPUs.
"""


def machine() -> str:
    """Return what the figures were measured on."""
    import torch

    return f"{os.cpu_count()} CPU cores ({platform.machine()}), no GPU used, PyTorch {torch.__version__.split('+')[0]}"


def in_a_process(name: str) -> dict[str, object]:
    """Return the figures of one benchmark as plain values, measured with one thread in a fresh process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--measure", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return {"date": date.today().isoformat(), "machine": machine(), "figures": json.loads(done.stdout.splitlines()[-1])}


def page(found: dict[str, dict[str, object]]) -> str:
    """Return the table as markdown."""
    lines = [INTRODUCTION]
    for name in PAIRS:
        if name in found:
            entry = found[name]
            lines += [f"## `benchmarks/{name}.py`", "", f"{entry['date']}, {entry['machine']}, one thread.", ""]
            lines += [f"| {' | '.join(HEADER)} |", "|---|---:|---|---|---|"]
            lines += [f"| {' | '.join(Figure(**figure).cells())} |" for figure in entry["figures"]]  # type: ignore[attr-defined]
            lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PAIRS, default=list(PAIRS))
    parser.add_argument("--measure", choices=PAIRS, help="measure this one in this process and print it as JSON")
    options = parser.parse_args()
    if options.measure:
        figures = import_module(options.measure).figures(PAIRS[options.measure])
        print(json.dumps([vars(figure) for figure in figures]))
        return
    found = json.loads(STORE.read_text()) if STORE.is_file() else {}
    for name in options.only:
        found[name] = in_a_process(name)
        show([Figure(**figure) for figure in found[name]["figures"]])
        STORE.write_text(json.dumps(found, indent=2) + "\n")
        TABLE.write_text(page(found))


if __name__ == "__main__":
    main()
