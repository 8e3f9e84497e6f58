"""What an engine does for the server: it lists nodes, and carries bytes to them and back."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Delivery:
    """What has come back for one message.

    Attributes:
        number: the message's.
        data: the answer; ``None`` if there is none.
        error: why there is none, in words for people.
    """

    number: str
    data: bytes | None
    error: str = ""


class Grid(Protocol):
    """One node stands at each client. All calls return at once; none waits for a node."""

    def nodes(self) -> Mapping[int, str]:
        """Return the nodes that are there, each with its public key in OpenSSH's format, empty if it has none."""
        ...

    def push(self, node: int, data: bytes, seconds: float) -> str:
        """Send a message that is of no use after so many seconds, and return its number."""
        ...

    def pull(self, numbers: Collection[str], most: int) -> list[Delivery]:
        """Return what has come for these messages, each delivery once, and an error for one of more than so many bytes.

        It may leave deliveries for the next call, so that they are not held all at once.
        """
        ...

    def close(self) -> None:
        """Leave nothing running."""
        ...
