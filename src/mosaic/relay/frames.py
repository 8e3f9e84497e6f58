"""Bytes of announced length on a stream socket; the standard library alone."""

import socket
import struct
import time

LENGTH = struct.Struct(">Q")
PIECE = 1 << 20


def send_frame(connection: socket.socket, data: bytes) -> None:
    """Send the length of the data in 8 bytes, the highest first, and then the data."""
    connection.sendall(LENGTH.pack(len(data)))
    connection.sendall(data)


def receive_frame(
    connection: socket.socket, most: int, silence: float | None = None, longest: float | None = None
) -> bytes:
    """Return the data of one frame.

    Args:
        connection: a blocking socket.
        most: the largest length in bytes that the other end may announce.
        silence: seconds within which each piece of up to a mebibyte must come; as the socket's timeout when not given.
        longest: seconds within which the whole frame must come.

    Raises:
        TimeoutError: it has not come in time.
        ConnectionError: the other end has closed before the frame was complete.
        ValueError: the other end has announced more; nothing of it was read.
    """
    silence = connection.gettimeout() if silence is None else silence
    end = None if longest is None else time.monotonic() + longest
    (length,) = LENGTH.unpack(_receive(connection, LENGTH.size, silence, end))
    if length > most:
        raise ValueError(f"expected a frame of at most {most} bytes, got one of {length}: raise the limit, or close")
    return bytes(_receive(connection, length, silence, end))


def _receive(connection: socket.socket, length: int, silence: float | None, end: float | None) -> bytearray:
    data = bytearray()
    while len(data) < length:
        if end is not None and time.monotonic() > end:
            raise TimeoutError(f"only {len(data)} of {length} bytes have come in time")
        connection.settimeout(silence)
        piece = connection.recv(min(length - len(data), PIECE))
        if not piece:
            raise ConnectionError(f"the other end closed after {len(data)} of {length} bytes")
        data += piece
    return data
