import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from mosaic.relay.frames import receive_frame, send_frame
from tests.cases import for_each

Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    one, other = socket.socketpair()
    with one, other:
        other.settimeout(60)
        yield one, other


@for_each("data", [b"", b"x", bytes(range(256)) * 10], ids=["empty", "one byte", "many"])
def test_what_is_sent_arrives(ends: Ends, data: bytes) -> None:
    send_frame(ends[0], data)
    assert receive_frame(ends[1], len(data)) == data


def test_more_than_a_socket_holds_arrives(ends: Ends) -> None:
    data = bytes(range(256)) * 20_000
    sender = threading.Thread(target=send_frame, args=(ends[0], data))
    sender.start()
    assert receive_frame(ends[1], len(data)) == data
    sender.join()


def test_frames_follow_each_other(ends: Ends) -> None:
    send_frame(ends[0], b"one")
    send_frame(ends[0], b"two")
    assert [receive_frame(ends[1], 3), receive_frame(ends[1], 3)] == [b"one", b"two"]


def test_the_length_comes_first_in_eight_bytes(ends: Ends) -> None:
    send_frame(ends[0], b"abc")
    assert ends[1].recv(100) == b"\0\0\0\0\0\0\0\3abc"


def test_too_long_an_announcement_is_refused_before_it_is_read(ends: Ends) -> None:
    ends[0].sendall(struct.pack(">Q", 1 << 60) + b"rest")
    with pytest.raises(ValueError, match="at most 3 bytes"):
        receive_frame(ends[1], 3)
    assert ends[1].recv(100) == b"rest"


@pytest.mark.parametrize(
    "sent", [b"", b"\0\0\0", struct.pack(">Q", 5) + b"abc"], ids=["nothing", "half a length", "half the data"]
)
def test_an_end_that_closes_early_is_an_error(ends: Ends, sent: bytes) -> None:
    ends[0].sendall(sent)
    ends[0].close()
    with pytest.raises(ConnectionError, match="closed after"):
        receive_frame(ends[1], 100)
