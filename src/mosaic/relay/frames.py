"""Bytes of announced length on a stream socket; the standard library alone."""

import socket
import struct

LENGTH = struct.Struct(">Q")
PIECE = 1 << 20


def send_frame(connection: socket.socket, data: bytes) -> None:
    """Send the length of the data in 8 bytes, the highest first, and then the data."""
    connection.sendall(LENGTH.pack(len(data)))
    connection.sendall(data)


def receive_frame(connection: socket.socket, most: int) -> bytes:
    """Return the data of one frame.

    Args:
        connection: a blocking socket; its timeout applies to each piece of up to a mebibyte.
        most: the largest length in bytes that the other end may announce.

    Raises:
        ConnectionError: the other end has closed before the frame was complete.
        ValueError: the other end has announced more; nothing of it was read.
    """
    (length,) = LENGTH.unpack(_receive(connection, LENGTH.size))
    if length > most:
        raise ValueError(f"expected a frame of at most {most} bytes, got one of {length}: raise the limit, or close")
    return bytes(_receive(connection, length))


def _receive(connection: socket.socket, length: int) -> bytearray:
    data = bytearray()
    while len(data) < length:
        piece = connection.recv(min(length - len(data), PIECE))
        if not piece:
            raise ConnectionError(f"the other end closed after {len(data)} of {length} bytes")
        data += piece
    return data
