"""Tables and event files: cut back to a snapshot, and refused where they are shorter than it says."""

from pathlib import Path

import pytest

from mosaic.errors import MosaicError
from mosaic.runs.append_only import check_sizes, copy_append_only, cut_back


def test_files_are_cut_back_and_never_filled_up(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("round,loss\n1,0.5\n")
    cut_back(tmp_path, {"metrics.csv": 11})
    assert (tmp_path / "metrics.csv").read_bytes() == b"round,loss\n"
    cut_back(tmp_path, {"metrics.csv": 400})
    assert (tmp_path / "metrics.csv").read_bytes() == b"round,loss\n"


def test_a_snapshot_names_no_other_files_than_tables_and_events(tmp_path: Path) -> None:
    for folder in ("given", "given/run", "new", "new/run"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine").write_text(folder)
        (tmp_path / folder / "metrics.csv").write_text(folder)
    copy_append_only(tmp_path / "given/run", tmp_path / "new/run", {"../mine": 0, "mine": 0, "metrics.csv": 0})
    assert (tmp_path / "new" / "mine").read_text() == "new"
    assert (tmp_path / "new" / "run" / "mine").read_text() == "new/run"
    assert (tmp_path / "new" / "run" / "metrics.csv").read_text() == "given/run"


def test_tables_that_are_shorter_than_a_snapshot_counts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("round,loss\n1,0.5\n")
    newest = tmp_path / "rounds" / "0002"
    for name in ("0001", "0002"):
        (tmp_path / "rounds" / name).mkdir(parents=True)
    check_sizes(tmp_path, {"metrics.csv": 17}, newest)
    with pytest.raises(MosaicError, match=r"metrics.csv holds 17 bytes where .*0002 counts 18: .*goes on from .*0001"):
        check_sizes(tmp_path, {"metrics.csv": 18}, newest)
    with pytest.raises(MosaicError, match=r"validation.csv holds 0 bytes"):
        check_sizes(tmp_path, {"validation.csv": 1}, newest)


def test_a_table_without_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_bytes(b"round,loss\n1,\xb4.5\n")
    with pytest.raises(MosaicError, match=r"metrics\.csv is damaged \(.*0xb4.*\): restore it from a copy"):
        check_sizes(tmp_path, {"metrics.csv": 17}, tmp_path / "rounds" / "0001")
    (tmp_path / "metrics.csv").unlink()
    (tmp_path / "metrics.csv").mkdir()
    with pytest.raises(MosaicError, match=r"metrics\.csv is damaged \(.*directory.*\)"):
        check_sizes(tmp_path, {"metrics.csv": 17}, tmp_path / "rounds" / "0001")
