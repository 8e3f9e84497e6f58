"""A forwarder passes on what it counts."""

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

Joined = tuple[Any, socket.socket, socket.socket]


@pytest.fixture
def joined() -> Iterator[Joined]:
    """A forwarder, and both ends of a connection through it."""
    from deployment import Forwarder

    with socket.create_server(("127.0.0.1", 0)) as server:
        forwarder = Forwarder(server.getsockname()[1])
        site = socket.create_connection(("127.0.0.1", forwarder.port), timeout=60)
        link, _ = server.accept()
        link.settimeout(60)
        with site, link:
            yield forwarder, site, link
        forwarder.close()


def test_bytes_are_passed_on_and_counted_in_both_directions(joined: Joined) -> None:
    forwarder, site, link = joined
    site.sendall(b"abc")
    assert link.recv(10) == b"abc"
    link.sendall(b"de")
    assert site.recv(10) == b"de"
    assert (forwarder.bytes_up, forwarder.bytes_down) == (3, 2)


def test_more_than_a_socket_holds_is_passed_on(joined: Joined) -> None:
    forwarder, site, link = joined
    sender = threading.Thread(target=site.sendall, args=(bytes(3_000_000),))
    sender.start()
    received = 0
    while received < 3_000_000:
        received += len(link.recv(1 << 16))
    sender.join()
    assert forwarder.bytes_up == received


def test_an_end_that_closes_is_seen_at_the_other(joined: Joined) -> None:
    _, site, link = joined
    link.close()
    assert site.recv(10) == b""


def test_nobody_behind_it_is_seen_in_front_of_it() -> None:
    from deployment import Forwarder

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    forwarder = Forwarder(port)
    with socket.create_connection(("127.0.0.1", forwarder.port), timeout=60) as site:
        assert site.recv(10) == b""
    forwarder.close()
