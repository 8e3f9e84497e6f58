"""Processes of one world find each other, whoever else calls, and a process that is gone is noticed."""

import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any

import pytest

from mosaic.errors import MosaicError
from mosaic.executors.base import WorkerLostError
from mosaic.executors.processes import link
from mosaic.executors.processes.environment import World

LIMIT = 60
RUN = "0123456789abcdef"


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def worlds(size: int, port: int, **more: Any) -> list[World]:
    return [World(rank, size, rank, "127.0.0.1", port, **more) for rank in range(size)]


def meet(listener: socket.socket, size: int, threads: ThreadPoolExecutor) -> tuple[dict[int, Connection], list[Any]]:
    """Connections of rank 0, and that of every other rank; ranks come in the reverse order."""
    first, *others = worlds(size, listener.getsockname()[1])
    coming = [threads.submit(link.connect, world, RUN) for world in reversed(others)]
    ours = link.accept_all(first, listener, RUN, lambda: None)
    return ours, [future.result(LIMIT) for future in reversed(coming)]


@pytest.mark.parametrize("length", [0, 1, 100_000])
def test_every_rank_gets_the_bytes_that_are_meant_for_it(length: int, threads: ThreadPoolExecutor) -> None:
    ours, theirs = meet(link.open_port(), 4, threads)
    with ExitStack() as stack:
        for connection in (*ours.values(), *theirs):
            stack.enter_context(connection)
        for rank in (1, 2, 3):
            ours[rank].send_bytes(bytes([rank]) * length)
        assert [connection.recv_bytes() for connection in theirs] == [bytes([rank]) * length for rank in (1, 2, 3)]
        theirs[2].send_bytes(b"from three")
        assert ours[3].recv_bytes() == b"from three"


def test_who_hangs_up_or_says_something_else_is_not_rank_0(threads: ThreadPoolExecutor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        (world,) = worlds(2, stranger.getsockname()[1])[1:]
        coming = threads.submit(link.connect, world, RUN)
        for answer in (b"", b"?"):
            accepted, _ = stranger.accept()
            with accepted:
                accepted.recv(100)
                accepted.sendall(answer)
        accepted, _ = stranger.accept()
        with accepted:
            accepted.sendall(link._WELCOME)
            coming.result(LIMIT).close()


@pytest.mark.parametrize("says", [b"", b"GET / HTTP/1.1\r\n\r\n", link._hello(RUN, 9)])
def test_strangers_are_sent_away(says: bytes, threads: ThreadPoolExecutor) -> None:
    listener = link.open_port()
    with socket.create_connection(listener.getsockname()) as stranger:
        stranger.sendall(says)
        stranger.shutdown(socket.SHUT_WR)
        ours, (theirs,) = meet(listener, 2, threads)
        with ours[1], theirs:
            ours[1].send_bytes(b"for rank 1")
            assert theirs.recv_bytes() == b"for rank 1"


def test_a_process_of_another_run_is_sent_away_and_says_so(
    threads: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """Both runs look for rank 0 at one port, and the other one comes first."""
    listener = link.open_port()
    first, second = worlds(2, listener.getsockname()[1])
    other = threads.submit(link.connect, second, "another")
    own: list[Future[Connection]] = []

    def own_comes_later() -> None:
        if other.done() and not own:
            own.append(threads.submit(link.connect, second, RUN))

    ours = link.accept_all(first, listener, RUN, own_comes_later)
    with pytest.raises(MosaicError, match=r"expected rank 0 of this run at 127.0.0.1:\d+, got that of another one"):
        other.result(LIMIT)
    assert "a process of another run" in caplog.text
    with ours[1], own[0].result(LIMIT) as theirs:
        ours[1].send_bytes(b"for rank 1")
        assert theirs.recv_bytes() == b"for rank 1"


def test_a_process_that_is_gone_ends_the_waiting_for_it(threads: ThreadPoolExecutor) -> None:
    ours, (theirs,) = meet(link.open_port(), 2, threads)
    with ours[1]:
        theirs.close()
        with pytest.raises(EOFError):
            ours[1].recv_bytes()


def test_who_does_not_come_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "MEETING_SECONDS", 0)
    with pytest.raises(WorkerLostError, match=r"processes \[1, 2\] did not come within"):
        link.accept_all(worlds(3, 1)[0], link.open_port(), RUN, lambda: None)


def test_a_port_that_is_taken_is_named() -> None:
    with link.open_port() as listener, pytest.raises(WorkerLostError, match="MASTER_PORT to a free port"):
        link.listen(worlds(2, listener.getsockname()[1])[0])


def test_a_first_process_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "MEETING_SECONDS", 0)
    with link.open_port() as listener:
        port = listener.getsockname()[1]
    with pytest.raises(WorkerLostError, match=f"process 1 of 2 expected to reach 127.0.0.1:{port}"):
        link.connect(worlds(2, port)[1], RUN)


def test_where_torchruns_agent_has_the_port_its_store_says_where_to_go(threads: ThreadPoolExecutor) -> None:
    store = link._dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    first, second = worlds(2, store.port, meeting_place="agent")
    coming: Future[Connection] = threads.submit(link.connect, second, RUN)
    ours = link.accept_all(first, link.listen(first), RUN, lambda: None)
    with ours[1], coming.result(LIMIT) as theirs:
        theirs.send_bytes(b"here")
        assert ours[1].recv_bytes() == b"here"
