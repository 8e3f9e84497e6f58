"""The folder of a run: who may write there, and that it appears whole."""

import errno
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from mosaic.errors import MosaicError
from mosaic.runs.directory import RunDirectory
from tests.small_runs import SharedRuns, fit_other


def test_a_folder_is_claimed_by_one_process_at_a_time(tmp_path: Path) -> None:
    first, second = RunDirectory(tmp_path), RunDirectory(tmp_path)
    first.claim()
    with pytest.raises(MosaicError, match=r"another process is at work in .*: wait for it, or choose another"):
        second.claim()
    first.close()
    second.claim()
    second.close()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_takes_runs(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    run = RunDirectory(tmp_path / "run")
    run.create({"seed_everything": 0})
    run.close()
    run.claim()
    run.close()


def test_a_run_that_another_process_is_at_is_left_alone(
    shared_run: SharedRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(shared_run("FedAvg"), tmp_path / "run")
    before = contents(run)
    other = RunDirectory(run)
    other.claim()
    with pytest.raises(SystemExit) as stop:
        fit_other(run, "FedAvg", "--ckpt_path=auto")
    assert stop.value.code == 2
    assert "another process is at work" in capsys.readouterr().err
    assert contents(run) == before
    other.close()


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    """What a killed process has left aside is cleared away, and the claim moves with the folder."""
    aside, run = tmp_path / "runs" / ".run.new", tmp_path / "runs" / "run"
    (aside / "rounds" / "0001").mkdir(parents=True)
    (aside / "config.yaml").write_text("half of a configurat")
    directory = RunDirectory(run)
    directory.create({"model": {}}, lambda folder: (folder / "partition.json").touch())
    assert sorted(path.name for path in run.iterdir()) == [
        *(".lock", "config.yaml", "environment.json", "partition.json", "rounds", "tensorboard")
    ]
    assert list((run / "rounds").iterdir()) == []
    assert list(run.parent.iterdir()) == [run]
    with pytest.raises(MosaicError, match="another process is at work"):
        RunDirectory(run).claim()
    directory.close()


def test_a_folder_that_cannot_be_filled_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "partition.json").touch()
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        RunDirectory(tmp_path / "runs" / "today" / "run").create({"model": {}}, fail)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_at_the_lock_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", fail)
    with pytest.raises(MosaicError, match="cannot be written to"):
        RunDirectory(tmp_path / "runs" / "run").create({"model": {}})
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "rounds").touch()
    with pytest.raises(MosaicError, match="rounds is a file where a run has a folder"):
        RunDirectory(tmp_path).complete()


def test_a_folder_that_another_process_is_making_is_left_alone(tmp_path: Path) -> None:
    other = RunDirectory(tmp_path / ".run.new")
    other.path.mkdir()
    other.claim()
    with pytest.raises(MosaicError, match="another process is at work"):
        RunDirectory(tmp_path / "run").create({"model": {}})
    assert other.path.is_dir()
    other.close()


def test_a_folder_that_is_no_run_is_not_recommended(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(MosaicError, match=r"choose another name with --federation.run_dir, or move it away$"):
        RunDirectory(tmp_path).create({"model": {}})


def test_a_run_without_a_snapshot_may_be_deleted(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.create({"model": {}})
    with pytest.raises(MosaicError, match=r"auto, or delete it, unless a run is at work there: it holds no snapshot$"):
        run.require_free()
    (run.rounds / "0001").mkdir()
    with pytest.raises(MosaicError, match=r"or go on with it with --ckpt_path auto$"):
        run.require_free()


@pytest.mark.parametrize("name", ["x" * 300, "x" * 252, "nul\0"])
def test_a_name_that_no_folder_can_have_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(MosaicError, match="cannot be made a folder"):
        RunDirectory(tmp_path / name).check_name()


@pytest.mark.parametrize("name", [".", "./", "/", "..", "a/.."])
def test_a_folder_that_is_there_is_no_new_one(name: str) -> None:
    with pytest.raises(MosaicError, match="expected the name of a new folder"):
        RunDirectory(name).check_name()


def test_a_home_that_no_shell_has_filled_in_is_refused() -> None:
    with pytest.raises(MosaicError, match=r"expected a path without ~ and \$, which shells alone .*, got ~/run"):
        RunDirectory("~/run").check_name()
    with pytest.raises(MosaicError, match=r"expected a path without ~ and \$, which shells alone .*, got \$SCRATCH/x"):
        RunDirectory("$SCRATCH/x").check_name()
    with pytest.raises(MosaicError, match=r"got \$\{RUN\}"):
        RunDirectory("${RUN}").check_name()


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_the_folder_that_it_leads_to(there: bool, tmp_path: Path) -> None:
    disk = tmp_path / "disk" / "run"
    disk.mkdir(parents=True) if there else disk.parent.mkdir()
    (link := tmp_path / "link").symlink_to(disk)
    directory = RunDirectory(link)
    directory.check_name()
    directory.create({"a": 1})
    directory.close()
    assert link.is_symlink()
    assert RunDirectory(disk).read_config() == {"a": 1}
    assert [path.name for path in disk.parent.iterdir()] == ["run"]
