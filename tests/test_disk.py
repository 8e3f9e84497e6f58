"""A disk that takes no more: files stay whole, and one line says which disk it is."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mosaic import disk
from mosaic.disk import DiskError, locked, make_writable, naming_disk, write_whole
from mosaic.errors import MosaicError, users_mistake


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "facts", b"old")
    monkeypatch.setattr(disk.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "facts", b"new and longer")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("facts", b"old")]


def test_several_may_write_one_file_at_once_and_nobody_sees_half_of_it(tmp_path: Path) -> None:
    file, contents = tmp_path / "page", [bytes([each]) * 200_000 for each in b"ab"]

    def write(data: bytes) -> None:
        for _ in range(50):
            write_whole(file, data)
            assert file.read_bytes() in contents

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, contents))
    assert [path.name for path in tmp_path.iterdir()] == ["page"]


def test_what_a_killed_process_has_left_aside_goes_once_it_is_old(tmp_path: Path) -> None:
    old, new = tmp_path / ".page[1].aaaa.tmp", tmp_path / ".page[1].bbbb.tmp"
    for left in (old, new):
        left.touch()
    os.utime(old, (0, 0))
    write_whole(tmp_path / "page[1]", b"")
    assert {path.name for path in tmp_path.iterdir()} == {new.name, "page[1]"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EFBIG])
def test_a_disk_that_fails_is_named_and_is_nobodys_mistake(number: int, tmp_path: Path) -> None:
    failure = RuntimeError("the writer failed")
    failure.__cause__ = OSError(number, os.strerror(number), "metrics.csv")
    with pytest.raises(DiskError) as caught, naming_disk(tmp_path):
        raise failure
    assert str(caught.value).startswith(f"the disk of {tmp_path} fails at metrics.csv ({os.strerror(number)}): see to")
    assert users_mistake(caught.value) is caught.value
    assert caught.value.exit_code == 1


def test_other_failures_are_left_alone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), naming_disk(tmp_path):
        (tmp_path / "nothing").read_text()
    with pytest.raises(ZeroDivisionError), naming_disk(tmp_path):
        raise ZeroDivisionError


def raise_another(file: Path) -> None:
    try:
        file.read_text()
    except FileNotFoundError:
        raise ValueError("another") from None


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for missing in (run / "tensorboard" / "events", run / "metrics.csv", run / "rounds" / "0001" / "run.json"):
        with pytest.raises(DiskError, match=r"run is gone, or a folder in it: .*: put it back"), naming_disk(run):
            missing.write_text("")
    run.mkdir()
    with pytest.raises(FileNotFoundError), naming_disk(run):
        (run / "nothing").read_text()
    with pytest.raises(ValueError, match="another"), naming_disk(run):
        raise_another(run / "a" / "b")


def test_threads_that_meet_it_print_no_traceback_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As TensorBoard's, whose exception comes again in the thread that writes next."""
    told = threading.excepthook
    with naming_disk(tmp_path):
        thread = threading.Thread(target=full)
        thread.start()
        thread.join()
    assert "Traceback" not in capsys.readouterr().err
    assert threading.excepthook is told


def test_a_folder_is_made_or_said_to_be_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_writable(tmp_path / "a" / "b", "--output")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    monkeypatch.setattr(disk.tempfile, "TemporaryFile", lambda **_: (_ for _ in ()).throw(PermissionError(13, "no")))
    with pytest.raises(MosaicError, match=r"--output: .*/a cannot be written to \(Permission denied\): choose another"):
        make_writable(tmp_path / "a", "--output")


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    order: list[str] = []

    def other() -> None:
        with locked(tmp_path / "lock"):
            order.append("other")

    with locked(tmp_path / "lock"):
        (thread := threading.Thread(target=other)).start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "other"]


def test_a_file_system_without_locks_is_worked_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    for _ in range(2):
        with locked(tmp_path / "lock"):
            pass
