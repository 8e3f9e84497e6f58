"""Snapshots: whole or refused, and the one before is offered."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mosaic.client_states import ClientStates
from mosaic.errors import MosaicError
from mosaic.messages import ClientState
from mosaic.runs.books import Books
from mosaic.runs.snapshots import Snapshot, list_snapshots
from mosaic.server.state import ServerState
from mosaic.server.uploads import Uploads
from tests.small_runs import TWO_ROUNDS, fit_other


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("server.safetensors", flip),
        ("run.json", flip),
        ("clients/0003.safetensors", flip),
        ("clients/0003.safetensors", Path.unlink),
        ("run.json", Path.unlink),
        ("server.safetensors", lambda file: file.write_bytes(b"")),
        ("run.json", lambda file: file.write_text("[]")),
        ("clients/0004.safetensors", Path.touch),
    ],
)
def test_a_snapshot_of_which_a_bit_has_changed_is_refused_and_the_one_before_offered(
    name: str, spoil: Callable[[Path], object], tmp_path: Path
) -> None:
    state = ServerState({"w": torch.arange(64.0)})
    clients = ClientStates()
    clients[3] = ClientState({"own": torch.ones(9)})
    for round in (1, 2):
        Snapshot(round, state, clients, Books(updates={"local": 3})).write(tmp_path, keep=2)
    newest = tmp_path / "0002"
    found = Snapshot.read(newest)
    assert (found.round, found.books.updates) == (2, {"local": 3})
    assert torch.equal(found.clients[3].tensors["own"], torch.ones(9))
    spoil(newest / name)
    with pytest.raises(MosaicError, match=rf"delete {newest}, and --ckpt_path auto goes on from {tmp_path}/0001"):
        Snapshot.read(newest)
    shutil.rmtree(tmp_path / "0001")
    with pytest.raises(MosaicError, match=f"no older one is left: delete {newest}, and --ckpt_path auto begins anew"):
        Snapshot.read(newest)


@pytest.mark.parametrize("sizes", [{"metrics.csv": "x"}, {"metrics.csv": None}, "x"])
def test_sizes_that_are_no_numbers_are_refused(sizes: Any, tmp_path: Path) -> None:
    """Somebody has written them who knows how files are signed."""
    path = Snapshot(1, ServerState({"w": torch.ones(2)}), sizes=sizes).write(tmp_path, keep=1)
    with pytest.raises(MosaicError, match=r"0001 is not a whole snapshot"):
        Snapshot.read(path)


def test_a_snapshot_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Snapshot(1, ServerState({"w": torch.ones(2)})).write(tmp_path, keep=2)
    monkeypatch.setattr("mosaic.runs.snapshots.write_synced", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        Snapshot(2, ServerState({"w": torch.ones(2)})).write(tmp_path, keep=2)
    assert [path.name for path in tmp_path.iterdir()] == ["0001"]


def test_what_a_killed_process_has_half_written_goes_with_the_next_snapshot(tmp_path: Path) -> None:
    (tmp_path / ".0002.tmp" / "clients").mkdir(parents=True)
    Snapshot(3, ServerState({"w": torch.ones(2)})).write(tmp_path, keep=2)
    assert [path.name for path in tmp_path.iterdir()] == ["0003"]


def test_an_old_snapshot_that_cannot_be_deleted_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: Path, target: Path) -> Path:
        if path.name == "0001":
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return rename(path, target)

    rename = Path.rename
    monkeypatch.setattr(Path, "rename", refuse)
    for round in (1, 2, 3):
        Snapshot(round, ServerState({"w": torch.ones(2)})).write(tmp_path, keep=1)
    assert [path.name for path in list_snapshots(tmp_path)] == ["0001", "0003"]
    assert "0001 stays, since it cannot be moved (Operation not permitted): delete it" in caplog.text


def test_files_that_cannot_be_deleted_are_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("mosaic.runs.snapshots.shutil.rmtree", lambda *_, **__: None)
        for round in (1, 2):
            Snapshot(round, ServerState({"w": torch.ones(2)})).write(tmp_path, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".0001.old.tmp", "0002"]
    Snapshot(3, ServerState({"w": torch.ones(2)})).write(tmp_path, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["0003"]


def test_only_folders_with_the_number_of_a_round_are_snapshots(tmp_path: Path) -> None:
    for name in ("0002", "0010", "0010.bak", ".0011.tmp", "notes"):
        (tmp_path / name).mkdir()
    assert [path.name for path in list_snapshots(tmp_path)] == ["0002", "0010"]


def test_finished_rounds_outlast_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    average = Uploads.average

    def fail_later(uploads: Uploads) -> object:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise RuntimeError("out of memory")
        return average(uploads)

    monkeypatch.setattr(Uploads, "average", fail_later)
    with pytest.raises(RuntimeError, match="out of memory"):
        fit_other(tmp_path / "run", "FedAvg", *TWO_ROUNDS, "--federation.snapshot_every=100")
    assert [path.name for path in list_snapshots(tmp_path / "run" / "rounds")] == ["0001"]
