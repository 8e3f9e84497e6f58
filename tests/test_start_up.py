"""What is asked for is imported when it is asked for: nobody waits for torch to read a help page."""

import subprocess
import sys
from types import ModuleType

import pytest

import mosaic
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


def test_the_package_imports_what_is_asked_for() -> None:
    program = "import sys, mosaic; mosaic.MosaicError, dir(mosaic); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


def test_everything_public_is_there() -> None:
    for name in mosaic.__all__:
        assert getattr(mosaic, name) is not None
    packages = [getattr(mosaic, name) for name in mosaic.__all__ if isinstance(getattr(mosaic, name), ModuleType)]
    assert len(packages) == 7
    for package in packages:
        assert all(hasattr(package, name) for name in package.__all__), package
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mosaic.nothing  # noqa: B018


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
