"""What is asked for is imported when it is asked for: nobody waits for torch to read a help page."""

import subprocess
import sys

from tests.cases import for_each

HEAVY = {"torch", "lightning", "torchvision", "torchmetrics", "flwr_datasets", "datasets", "sklearn", "matplotlib"}
PROGRAM = """
import sys
from mosaic.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    assert not stop.code, stop.code
print("imported:", *sys.modules)
"""


def imported(*arguments: str) -> tuple[str, set[str]]:
    """What a command prints, and which modules its process has imported by its end."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True)
    said, _, modules = done.stdout.rpartition("imported:")
    return said, set(modules.split())


@for_each(
    ("arguments", "said"),
    [
        (["--version"], "mosaic "),
        (["--help"], "compare"),
        ([], "start here"),
        (["compare", "--help"], "--algorithms"),
        (["report", "--help"], "run"),
        (["export", "--help"], "safetensors"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_help_comes_without_heavy_packages(arguments: list[str], said: str) -> None:
    text, modules = imported(*arguments)
    assert said in text
    assert not HEAVY & modules
