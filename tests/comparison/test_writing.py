"""What a comparison leaves in its folder."""

from pathlib import Path

import pytest
from rich.console import Console

from mosaic.comparison.outcome import Failure
from mosaic.comparison.writing import write_comparison
from mosaic.disk import DiskError, naming_disk
from tests.comparison.test_table import outcome


def test_pictures_of_other_runs_do_not_stay(tmp_path: Path) -> None:
    write_comparison([outcome("ours", 0, 0.5)], {}, tmp_path, Console(quiet=True))
    pictures = {"rounds.png", "traffic.png"}
    assert pictures <= {path.name for path in tmp_path.iterdir()}
    write_comparison([Failure("ours", 0, "diverged")], {}, tmp_path, Console(quiet=True))
    assert {path.name for path in tmp_path.iterdir()} == {"comparison.md", "comparison.csv", "comparison.tex"}


def test_a_full_disk_is_named_with_the_way_on(tmp_path: Path) -> None:
    told = r"the disk of .* fails.*: see to it, .*; the same command then goes on"
    with (
        pytest.raises(DiskError, match=told),
        naming_disk(tmp_path, "the same command then goes on with what is there"),
    ):
        raise OSError(28, "No space left on device")
