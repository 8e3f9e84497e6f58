"""States of clients, in memory and on disk."""

import errno
import gc
import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from mosaic.client.worker import Worker
from mosaic.client_states import ClientStates
from mosaic.disk import DiskError
from mosaic.executors import SerialExecutor
from mosaic.messages import ClientState, Declined, PrototypeRequest


def state(value: float) -> ClientState:
    """About 4 kB."""
    return ClientState({"head.weight": torch.full((1000,), float(value))})


def values(states: ClientStates) -> dict[int, float]:
    return {client: float(kept.tensors["head.weight"][0]) for client, kept in states.items()}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def on_disk(folder: Path) -> int:
    return len(list(folder.glob("**/*.safetensors")))


@pytest.mark.parametrize(("held_bytes", "written"), [(0, 4), (9_000, 2), (2**20, 0)])
def test_what_is_put_in_comes_out_and_only_so_much_stays_in_memory(held_bytes: int, written: int, files: Path) -> None:
    states = ClientStates(held_bytes)
    for client in (3, 1, 2, 7):
        states[client] = state(client)
    assert values(states) == {3: 3.0, 1: 1.0, 2: 2.0, 7: 7.0}
    assert torch.equal(states[7].tensors["head.weight"], state(7).tensors["head.weight"])
    assert on_disk(files) == written


def test_a_state_that_is_replaced_makes_room() -> None:
    states = ClientStates(held_bytes=5_000)
    for _ in range(3):
        states[0] = state(1)
    assert states._folder is None


def test_a_copy_keeps_what_has_changed_since(files: Path) -> None:
    states = ClientStates(held_bytes=0)
    states[0], states[1] = state(0), state(1)
    before = states.copy()
    states[0] = state(5)
    del states[1]
    assert values(before) == {0: 0.0, 1: 1.0}
    assert values(states) == {0: 5.0}
    assert on_disk(files) == 3


def test_a_full_disk_takes_nothing_and_is_named(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = ClientStates(held_bytes=0)
    states[0] = state(1)

    def full(path: Path, data: bytes) -> None:
        with path.open("wb") as file:
            file.write(data[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DiskError, match=r"No space left on device.*TMPDIR"):
        states[0] = state(2)
    assert values(states) == {0: 1.0}
    gc.collect()
    assert on_disk(files) == 1
    next(files.glob("**/*.safetensors")).unlink()
    with pytest.raises(DiskError, match="No such file"):
        values(states)


def test_a_disk_of_this_process_is_not_taken_for_a_clients_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = SerialExecutor()
    executor.start(cast(Worker, SimpleNamespace(handle=lambda request, _: (Declined(request.client, ""), state(1)))))

    def full(*_: object) -> None:
        raise DiskError("full")

    monkeypatch.setattr(ClientStates, "__setitem__", full)
    with pytest.raises(DiskError, match="full"):
        list(executor.map([PrototypeRequest(0, 1, {})]))


def test_files_go_with_the_last_that_refers_to_them(files: Path) -> None:
    states = ClientStates(held_bytes=0)
    states[0] = state(0)
    twin = states.copy()
    states.clear()
    gc.collect()
    assert on_disk(files) == 1
    del twin
    gc.collect()
    assert on_disk(files) == 0
    del states
    gc.collect()
    assert list(files.iterdir()) == []


def test_looking_for_a_client_reads_nothing(files: Path) -> None:
    states = ClientStates(held_bytes=0)
    states[4] = state(4)
    for file in files.glob("**/*.safetensors"):
        file.write_bytes(b"no state at all")
    assert 4 in states
    assert 5 not in states
    assert list(states) == [4]
    with pytest.raises(ValueError, match="expected an encoded ClientState"):
        states[4]
