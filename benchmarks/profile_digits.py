"""Where does the time of the demo go?

Runs what `make demo` runs under Python's profiler and shares its own time out: to PyTorch's kernels
(built-in methods), to the Python of PyTorch, Lightning and this package, and to the rest. Then every single function
above one per cent. The profiler makes Python look slower than it is, and kernels not, so what is said of Python is an
upper bound.

    python benchmarks/profile_digits.py
"""

import argparse
import contextlib
import cProfile
import io
import pstats
import tempfile
from collections import defaultdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

CONFIGS = Path(__file__).parent.parent / "configs"
DEMO = (f"--config={CONFIGS / 'digits.yaml'}", f"--config={CONFIGS / 'generators' / 'both.yaml'}")
PLACES = {
    "site-packages/torch/": "PyTorch's Python",
    "site-packages/lightning": "Lightning's Python",
    "src/mosaic/": "this package's Python",
}


def place_of(file: str, name: str) -> str:
    """Say whose a function is."""
    if file == "~":
        return "kernels" if "torch" in name or "run_backward" in name else "other built-ins"
    return next((place for part, place in PLACES.items() if part in file), "other Python")


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    from mosaic.cli.lightning import run
    from mosaic.federation.rounds import Rounds

    profile, complete = cProfile.Profile(), Rounds.complete
    Rounds.complete = lambda self: profile.runcall(complete, self)  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        run(["fit", *DEMO, f"--federation.run_dir={folder}/run"])
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    total = sum(entry[2] for entry in stats.values())
    shares: dict[str, float] = defaultdict(float)
    for (file, _, name), entry in stats.items():
        shares[place_of(file, name)] += entry[2] / total
    console = Console(width=120)
    by_place = Table("own time of", "share")
    for place, share in sorted(shares.items(), key=lambda item: -item[1]):
        by_place.add_row(place, f"{share:.1%}")
    console.print(by_place)
    by_function = Table("function", "of", "calls", "share")
    for (file, line, name), entry in sorted(stats.items(), key=lambda item: -item[1][2]):
        if entry[2] / total < 0.01:
            break
        place = place_of(file, name)
        where = name if file == "~" else f"{Path(file).name}:{line} {name}"
        by_function.add_row(where, place, f"{entry[0]:,}", f"{entry[2] / total:.1%}")
    console.print(by_function)


if __name__ == "__main__":
    main()
