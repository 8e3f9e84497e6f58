"""Flower as the engine between server and clients. Nothing here imports flwr: its commands are started."""

import json
import logging
import socket
import tempfile
import time
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from mosaic.executors.remote.executor import RemoteExecutor
from mosaic.executors.remote.flower_run import FlowerError, FlowerRun, command_for, environment_for
from mosaic.executors.remote.grid import Delivery
from mosaic.relay.frames import receive_frame, send_frame
from mosaic.training.signals import leave_if_asked

log = logging.getLogger(__name__)
_LARGEST_ANSWER = 1 << 28  # bytes of a list of nodes or deliveries
_PAUSE = 5.0  # seconds between two attempts to start a run, where the first has failed


@dataclass(frozen=True)
class _Held:
    """A message that Flower has not taken yet."""

    node: int
    data: bytes
    end: float


class FlowerGrid:
    """Starts a run of the bundle's ServerApp, which connects to a socket of this process and carries its messages.

    If that connection is lost, all messages that Flower has taken are delivered as errors, and another run is started.
    Until it connects, the nodes are those known last, and new messages are held back.

    Args:
        app: folder of the bundle.
        federation: a SuperLink's name in ``config.toml``.
        flower_home: folder with Flower's ``config.toml``.
        patience: seconds until a run must have connected; after a loss, this long messages are held back.
    """

    def __init__(self, app: Path, federation: str, flower_home: Path, patience: float = 180.0) -> None:
        self._command, self._environment = command_for(app, federation), environment_for(flower_home)
        self._patience = patience
        self._folder = tempfile.TemporaryDirectory(prefix="mosaic-flower-")
        self._runs, self._numbers = count(1), count(1)
        self._connection: socket.socket | None = None
        self._nodes: dict[int, str] = {}
        self._held: dict[str, _Held] = {}
        self._taken: dict[str, str] = {}  # Flower's numbers, and ours
        self._errors: dict[str, str] = {}
        self._lost = time.monotonic()
        with ExitStack() as undo:
            undo.callback(self._folder.cleanup)
            self._run = self._started()
            undo.callback(self.close)
            self._wait()
            undo.pop_all()

    def nodes(self) -> Mapping[int, str]:
        """See :class:`~mosaic.executors.remote.grid.Grid`."""
        there = self._called({"call": "nodes"})
        if there is not None or self._away():
            self._nodes = dict(there or [])
        return self._nodes

    def push(self, node: int, data: bytes, seconds: float) -> str:
        """See :class:`~mosaic.executors.remote.grid.Grid`."""
        number = str(next(self._numbers))
        self._held[number] = _Held(node, data, time.monotonic() + seconds)
        self._send_held()
        return number

    def pull(self, numbers: Collection[str], most: int) -> list[Delivery]:
        """See :class:`~mosaic.executors.remote.grid.Grid`."""
        self._send_held()
        waiting = [taken for taken, number in self._taken.items() if number in numbers]
        found = self._called({"call": "pull", "numbers": waiting, "most": most}) if waiting else None
        deliveries = [replace(each, number=self._taken.pop(each.number)) for each in found or ()]
        failed = [number for number in numbers if number in self._errors]
        return [*deliveries, *(Delivery(number, None, self._errors.pop(number)) for number in failed)]

    def close(self) -> None:
        """End the run: its ServerApp leaves when the connection closes, or when it finds nobody to connect to."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._run.close()
        self._folder.cleanup()

    def _started(self) -> FlowerRun:
        path = Path(self._folder.name, f"{next(self._runs)}.sock")  # a late ServerApp of an earlier run finds nobody
        return FlowerRun(self._command, self._environment, path)

    def _wait(self) -> None:
        while (connection := self._run.accept()) is None:
            leave_if_asked()
            if failure := self._run.failure():
                raise FlowerError(
                    f"executor: `{' '.join(self._command)}` failed: {failure}: see that the SuperLink runs, and that "
                    "FLWR_HOME/config.toml has its address and certificate"
                )
            if self._away():
                raise FlowerError(
                    f"executor: expected Flower to start the server's app within {self._patience:g} s, it has not: see "
                    "that the SuperLink runs, and what `flwr ls` and `flwr log` say"
                )
            time.sleep(0.1)
        self._connection = connection

    def _away(self) -> bool:
        """Whether Flower has been away for longer than patience lasts."""
        return self._connection is None and time.monotonic() - self._lost > self._patience

    def _send_held(self) -> None:
        """Hand Flower what is held back; give up what nobody waits for any more."""
        for number, held in list(self._held.items()):
            left = held.end - time.monotonic()
            taken = self._called({"call": "push", "node": held.node, "seconds": left}, held.data) if left > 0 else [""]
            if taken is None and not self._away():
                continue
            del self._held[number]
            if taken and taken[0]:
                self._taken[taken[0]] = number
            else:
                self._errors[number] = f"Flower takes no message for node {held.node}"

    def _called(self, call: dict[str, Any], data: bytes | None = None) -> list[Any] | None:
        """Return the ServerApp's answer; ``None`` if there is no ServerApp."""
        connection = self._connection = self._connection or self._again()
        if connection is None:
            return None
        try:
            send_frame(connection, json.dumps(call).encode())
            if data is not None:
                send_frame(connection, data)
            answer: list[Any] = json.loads(receive_frame(connection, _LARGEST_ANSWER))
            if call["call"] != "pull":
                return answer
            return [
                Delivery(number, None if error else receive_frame(connection, call["most"]), error)
                for number, error in answer
            ]
        except (OSError, ValueError) as error:
            connection.close()
            self._connection, self._lost = None, time.monotonic()
            log.warning("the connection to Flower was lost (%s); another run is started", error)
            self._errors |= dict.fromkeys(self._taken.values(), f"the connection to Flower was lost ({error})")
            self._taken.clear()
            self._restart()
            return None

    def _again(self) -> socket.socket | None:
        """Return the connection of the run that was started last; start another if nothing comes of it."""
        if self._run.age() > (_PAUSE if self._run.failure() else self._patience):
            self._restart()
        return self._run.accept()

    def _restart(self) -> None:
        self._run.close()
        self._run = self._started()


class FlowerExecutor(RemoteExecutor):
    """Asks clients through Flower: a SuperLink on this host, and a SuperNode beside each client.

    ``mosaic deploy`` writes the folders that it needs.

    Args:
        app: folder of the bundle that Flower ships to the sites.
        federation: name of the SuperLink in Flower's ``config.toml``.
        flower_home: folder with that file.
        settings: ``roster``, ``patience``, ``fewest``, ``grace`` and ``most_megabytes`` of :class:`RemoteExecutor`.
    """

    def __init__(
        self, app: str = "app", federation: str = "mosaic", flower_home: str = "home", **settings: Any
    ) -> None:
        super().__init__(**settings)
        self.app, self.federation, self.flower_home = app, federation, flower_home

    def open_grid(self) -> FlowerGrid:
        """Start a run of the bundle."""
        return FlowerGrid(Path(self.app), self.federation, Path(self.flower_home))
