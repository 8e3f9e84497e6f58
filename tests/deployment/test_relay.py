"""What the ServerApp does for ``mosaic fit``, with Flower's own messages and a grid of the test's own."""

import json
import socket
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mosaic.relay.frames import receive_frame, send_frame

pytest.importorskip("flwr", reason="Flower is an extra: pip install '.[flower]'")
pytestmark = [
    pytest.mark.slow,  # that suite installs Flower
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # import flwr: typer asks click for an old name
]
MOST = 1 << 20


class Answers:
    """A grid whose nodes answer at once: with the same bytes, or with what a node's number stands for."""

    def __init__(self) -> None:
        self.sent: dict[str, Any] = {}

    def get_nodes(self) -> list[Any]:
        return [SimpleNamespace(node_id=1, public_key=b""), SimpleNamespace(node_id=2, public_key=PEM)]

    def push_messages(self, messages: Iterable[Any]) -> list[str | None]:
        (message,) = messages
        self.sent[str(len(self.sent))] = message
        return [str(len(self.sent) - 1)]

    def pull_messages(self, numbers: Iterable[str]) -> list[Any]:
        from flwr.app import ConfigRecord, Error, Message, RecordDict

        message = self.sent[next(iter(numbers))]
        message.metadata.__dict__["_message_id"] = "id"
        match message.metadata.dst_node_id:
            case 1:
                return [Message(message.content, reply_to=message)]
            case 2:
                return [Message(RecordDict({"body": ConfigRecord({"data": "no bytes"})}), reply_to=message)]
            case 3:
                return [Message(Error(8, "crashed"), reply_to=message)]
            case _:
                return []


PEM = b"""-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAECMBRNONCoZMair4VkXmk3MnUzu3uC2KN
nqEYBxt8ic3LWFQgC+JgkPaHbkuVEYr5pbDSuibGUrQlJubLX+JF0KBjHVdMJEh1
uNj710z4Z1fL4eCQOv8aAAXExL8u49g9
-----END PUBLIC KEY-----
"""


@pytest.fixture
def fit(tmp_path: Path) -> Iterator[socket.socket]:
    """The end of the connection at which ``mosaic fit`` sits."""
    from flwr.supercore.task_identity import TaskIdentity

    from mosaic.relay.apps import serve

    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1  # as in a process that Flower has started
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        context: Any = SimpleNamespace(run_config={"socket": str(tmp_path / "s")})
        server = threading.Thread(target=serve, args=(Answers(), context))
        server.start()
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(60)
            yield connection
        server.join(60)
        assert not server.is_alive(), "the run ends when mosaic fit closes"


def asked(fit: socket.socket, *frames: bytes, **call: Any) -> Any:
    for frame in (json.dumps(call).encode(), *frames):
        send_frame(fit, frame)
    return json.loads(receive_frame(fit, MOST))


def test_nodes_have_their_keys_as_ssh_keygen_writes_them(fit: socket.socket) -> None:
    (one, none), (two, key) = asked(fit, call="nodes")
    assert (one, none, two) == (1, "", 2)
    assert key.startswith("ecdsa-sha2-nistp384 AAAA")


def test_bytes_go_to_a_node_and_back(fit: socket.socket) -> None:
    (number,) = asked(fit, b"\0\1\2", call="push", node=1, seconds=60.0)
    assert asked(fit, call="pull", numbers=[number], most=3) == [[number, ""]]
    assert receive_frame(fit, MOST) == b"\0\1\2"


def test_what_is_no_answer_comes_as_an_error_and_the_rest_goes_on(fit: socket.socket) -> None:
    numbers = [asked(fit, b"abc", call="push", node=node, seconds=60.0)[0] for node in (2, 3, 4, 1)]
    (_, unreadable), (_, failed), (good, none) = asked(fit, call="pull", numbers=numbers, most=3)
    assert unreadable == "Flower cannot read the answer: KeyError"
    assert failed == "Flower's error 8: crashed"
    assert (good, none) == (numbers[3], "")
    assert receive_frame(fit, MOST) == b"abc"


def test_too_long_an_answer_stays_where_it_is(fit: socket.socket) -> None:
    (number,) = asked(fit, b"abc", call="push", node=1, seconds=60.0)
    assert asked(fit, call="pull", numbers=[number], most=2) == [[number, "expected at most 2 bytes, got 3"]]


def test_answers_of_many_bytes_come_one_after_another(fit: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mosaic.relay.apps.AT_ONCE", 2)
    numbers = [asked(fit, b"abc", call="push", node=1, seconds=60.0)[0] for _ in range(2)]
    assert asked(fit, call="pull", numbers=numbers, most=3) == [[numbers[0], ""]]
