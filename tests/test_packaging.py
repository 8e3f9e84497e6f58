"""What is packed: the same files from a checkout as from a source distribution."""

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from mosaic.executors.remote.flower_run import FLOWER
from tests.small_runs import REPOSITORY


def build(source: Path, *arguments: str) -> Path:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", *arguments], cwd=source, check=True, capture_output=True
    )
    return Path(arguments[-1])


def test_errors_name_the_version_of_flower_that_the_extra_asks_for() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert FLOWER in project["optional-dependencies"]["flower"]


@pytest.mark.slow
def test_a_wheel_holds_all_data_wherever_it_is_built(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    (archive,) = build(REPOSITORY, "-t", "sdist", "-d", str(tmp_path / "sdist")).iterdir()
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    names = []
    for number, source in enumerate((REPOSITORY, unpacked)):
        (wheel,) = build(source, "-t", "wheel", "-d", str(tmp_path / str(number))).iterdir()
        names.append(set(zipfile.ZipFile(wheel).namelist()))
    assert names[0] == names[1]
    package = REPOSITORY / "src" / "mosaic"
    files = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {f"mosaic/{path.relative_to(package)}" for path in files} <= names[0]
    configs = [*(REPOSITORY / "configs").glob("*.yaml"), *(REPOSITORY / "configs").glob("*/*.yaml")]
    assert {f"mosaic/configs/{path.relative_to(REPOSITORY / 'configs')}" for path in configs} <= names[0]
