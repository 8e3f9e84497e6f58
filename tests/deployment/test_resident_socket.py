"""The socket of a client's resident process: who may connect, and what it survives."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pytest

from mosaic.cli.client import _alone_in
from mosaic.deployment import resident
from mosaic.errors import MosaicError
from mosaic.relay.frames import LENGTH, receive_frame, send_frame
from tests.remote_clients import arguments, write_parts
from tests.small_runs import REPOSITORY


def serve(path: Path, group: str | None) -> None:
    with resident.listening(path, group) as listener:
        resident.serve(Echo(), listener)  # type: ignore[arg-type]


class Echo:
    """Stands for a resident: it answers all but nonsense."""

    client = 0

    def handle(self, data: bytes) -> bytes:
        if data == b"nonsense":
            raise ValueError("expected a message")
        if data == b"vast":
            raise RuntimeError("Stride calculation overflowed")
        if data == b"unfit":
            raise MosaicError("data.std: expected 1 number")
        return data[::-1]


def served(path: Path, talk: Callable[[], None], group: str | None = None) -> None:
    """Serve in this thread until another has said all that it wants to say."""
    done: list[BaseException | None] = []

    def run() -> None:
        try:
            talk()
            done.append(None)
        except BaseException as error:
            done.append(error)

    class DoneError(Exception):
        pass

    def leave() -> None:
        if done:
            raise DoneError
        if not thread.is_alive() and thread.ident is None:
            thread.start()

    thread = Thread(target=run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resident, "leave_if_asked", leave)
        patch.setattr(resident, "_BETWEEN_SIGNALS", 0.02)
        patch.setattr(resident, "_SILENCE", 0.3)
        with pytest.raises(DoneError):
            serve(path, group)
    thread.join()
    if done[0] is not None:
        raise done[0]


def ask(path: Path, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        send_frame(connection, data)
        return receive_frame(connection, 1 << 20)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_its_owner_may_connect_and_the_socket_goes_with_the_process(tmp_path: Path) -> None:
    path = tmp_path / "new" / "client.sock"

    def talk() -> None:
        assert mode(path) == 0o600
        assert ask(path, b"abc") == b"cba"

    served(path, talk)
    assert not path.exists()


def test_a_group_may_connect_if_it_is_named(tmp_path: Path) -> None:
    import grp

    path = tmp_path / "client.sock"
    modes: list[int] = []
    served(path, lambda: modes.append(mode(path)), grp.getgrgid(os.getgid()).gr_name)
    assert modes == [0o660]


def test_nonsense_silence_and_closed_ends_get_no_answer_and_others_do(tmp_path: Path) -> None:
    path = tmp_path / "client.sock"

    def talk() -> None:
        for bad in (b"nonsense", b"vast", b"unfit"):
            with pytest.raises(ConnectionError):
                ask(path, bad)
        for begun in (b"", b"\0", LENGTH.pack(10) + b"abc", LENGTH.pack(2**40)):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(path))
                connection.sendall(begun)
        with socket.socket(socket.AF_UNIX) as silent:
            silent.connect(str(path))
            assert silent.recv(1) == b""  # closed by the other end, which waits for nobody
        assert ask(path, b"abc") == b"cba"

    served(path, talk)


def test_one_that_sends_a_byte_now_and_then_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "_LONGEST", 0.3)
    path = tmp_path / "client.sock"

    def talk() -> None:
        with socket.socket(socket.AF_UNIX) as slow:
            slow.connect(str(path))
            slow.sendall(LENGTH.pack(1000))
            with suppress(ConnectionError):
                for _ in range(100):
                    slow.sendall(b"x")
                    time.sleep(0.1)
                pytest.fail("it was waited for")
        assert ask(path, b"abc") == b"cba"

    served(path, talk)


def test_a_socket_that_is_in_use_or_no_socket_is_left_alone(tmp_path: Path) -> None:
    path, file = tmp_path / "client.sock", tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(MosaicError, match="exists and is no socket"):
        serve(file, None)
    assert file.read_text() == "mine"

    def talk() -> None:
        with pytest.raises(MosaicError, match="another process answers"):
            serve(path, None)
        assert ask(path, b"abc") == b"cba"

    served(path, talk)


def test_what_a_killed_process_has_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "client.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    served(path, lambda: ask(path, b"abc"))


@pytest.mark.parametrize(("name", "line"), [("x" * 200, "cannot be made"), ("client.sock", "cannot be given to")])
def test_places_and_groups_that_do_not_exist(name: str, line: str, tmp_path: Path) -> None:
    with pytest.raises(MosaicError, match=line):
        serve(tmp_path / name, "no such group")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_process_answers_until_it_is_told_to_end(tmp_path: Path) -> None:
    config = write_parts(tmp_path)
    path = tmp_path / "client.sock"
    source = ("--data.source=NpzSource", f"--data.source.path={tmp_path / '0.npz'}")
    own = ["--client=0", f"--socket={path}", f"--folder={tmp_path / 'memory'}", *source]
    command = [sys.executable, "-m", "mosaic", "client", *arguments(config, "FedAvg"), *own]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = next(line for line in process.stderr if "listens at" in line)
            with pytest.raises(ConnectionError):
                ask(path, b"GET / HTTP/1.1")
            process.send_signal(signal.SIGTERM)
            rest = process.communicate(timeout=10)[1]
        finally:
            process.kill()
    assert process.returncode == 0
    assert "client 0 listens at" in said
    assert "a message gets no answer: expected an encoded Asked" in rest
    assert "client 0 ends" in rest
    assert not path.exists()


def test_two_clients_do_not_remember_in_one_folder(tmp_path: Path) -> None:
    folder = tmp_path / "memory"
    with _alone_in(folder), pytest.raises(MosaicError, match="--folder: another client remembers"), _alone_in(folder):
        pass
    with _alone_in(folder):
        assert folder.is_dir()
