"""The two apps that Flower starts: both only carry bytes. The one module that imports flwr.

``mosaic deploy`` copies this folder into the bundle that Flower ships, so nothing here imports mosaic. Every message
starts a Python of its own at the site: importing PyTorch there would cost more than the message.
"""

import json
import socket
from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from .frames import receive_frame, send_frame

ANY = 1 << 40
"""Whoever listens on this host's own socket may announce as much as this."""
AT_ONCE = 1 << 28
"""Bytes of answers after which the others are left for the next call."""
LONGEST_REASON = 1000
"""Characters of a stranger's error that are passed on."""


def ask_resident(message: Message, context: Context) -> Message:
    """Hand a request to the client's resident process, and bring its answer back."""
    with _connected(context.node_config["socket"]) as connection:
        send_frame(connection, _unpack(message))
        return Message(_pack(receive_frame(connection, ANY)), reply_to=message)


def serve(grid: Any, context: Context) -> None:
    """Carry out what ``mosaic fit`` asks for, until it closes the connection."""
    with _connected(context.run_config["socket"]) as connection:
        calls = Calls(grid, connection)
        for call in calls.received():
            answer, data = getattr(calls, call.pop("call"))(**call)
            send_frame(connection, json.dumps(answer).encode())
            for piece in data:
                send_frame(connection, piece)


class Calls:
    """What ``mosaic fit`` may ask for; each returns its answer and the frames that follow it."""

    def __init__(self, grid: Any, connection: socket.socket) -> None:
        self._grid, self._connection = grid, connection

    def received(self) -> Iterator[dict[str, Any]]:
        """Yield calls until the other end closes."""
        while True:
            try:
                yield json.loads(receive_frame(self._connection, ANY))
            except ConnectionError:
                return

    def nodes(self) -> tuple[Any, list[bytes]]:
        """Say which nodes are there, and with which keys."""
        return [[node.node_id, _openssh(node.public_key)] for node in self._grid.get_nodes()], []

    def push(self, node: int, seconds: float) -> tuple[Any, list[bytes]]:
        """Send the frame that follows, and give the message's number, which is ``None`` if Flower does not take it."""
        content = _pack(receive_frame(self._connection, ANY))
        numbers = self._grid.push_messages([Message(content, node, "query", ttl=seconds)])
        return list(numbers), []

    def pull(self, numbers: list[str], most: int) -> tuple[Any, list[bytes]]:
        """Give what has come, or some of it; data follow in frames, one for each delivery without an error."""
        deliveries: list[list[str]] = []
        frames: list[bytes] = []
        for number in numbers:
            for data, error in self._pulled(number, most):
                deliveries.append([number, error[:LONGEST_REASON]])
                frames += [] if error else [data]
            if sum(map(len, frames)) > AT_ONCE:
                break
        return deliveries, frames

    def _pulled(self, number: str, most: int) -> Iterator[tuple[bytes, str]]:
        try:
            for message in self._grid.pull_messages([number]):
                if message.has_error():
                    yield b"", f"Flower's error {message.error.code}: {message.error.reason or 'no reason given'}"
                elif len(data := _unpack(message)) > most:
                    yield b"", f"expected at most {most} bytes, got {len(data)}"
                else:
                    yield data, ""
        except Exception as error:  # a site may send what Flower cannot read, which must not end the run
            yield b"", f"Flower cannot read the answer: {type(error).__name__}"


def _connected(path: Any) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        raise
    return connection


def _pack(data: bytes) -> RecordDict:
    """Put bytes into the record that Flower sends in pieces."""
    return RecordDict({"body": ArrayRecord({"data": Array("uint8", (len(data),), "mosaic", data)})})


def _unpack(message: Message) -> bytes:
    return bytes(message.content.array_records["body"]["data"].data)


def _openssh(pem: bytes) -> str:
    """Write a key as ``ssh-keygen`` does; nodes without authentication have keys that are none."""
    try:
        return str(load_pem_public_key(pem).public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH), "ascii")
    except ValueError:
        return ""


client = ClientApp()
client.query()(ask_resident)
server = ServerApp()
server.main()(serve)
