"""Flower as the engine between server and clients. Nothing here imports flwr: its commands are started."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mosaic.deployment.relay.frames import receive_frame, send_frame
from mosaic.errors import MosaicError
from mosaic.executors.remote.executor import RemoteExecutor
from mosaic.executors.remote.grid import Delivery
from mosaic.training.signals import leave_if_asked

OFF_THE_NETWORK = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
"""Without these Flower's commands open connections to its makers and to a package index."""
_LONGEST_CALL = 600.0  # seconds; Flower itself gives one message's upload 180
_LARGEST_ANSWER = 1 << 28  # bytes of a list of nodes or deliveries
_PAUSE = 5.0  # seconds between two attempts to start a run, where the first has failed
_PATIENCE = 120.0  # seconds until a run that was started must have connected


class FlowerError(MosaicError):
    """Flower does not do what it should although the request is right."""

    exit_code = 1


class FlowerGrid:
    """Starts a run of the bundle's ServerApp, which connects to a socket of this process and carries its messages.

    If that connection is lost, all messages in flight are delivered as errors, and another run is started.

    Args:
        app: folder of the bundle.
        federation: a SuperLink's name in ``config.toml``.
        flower_home: folder with Flower's ``config.toml``.
        patience: seconds until the first run must have connected.
        largest_message: most bytes of an answer that are taken.
    """

    def __init__(
        self, app: Path, federation: str, flower_home: Path, patience: float = _PATIENCE, largest_message: int = 1 << 32
    ) -> None:
        self._command, self._environment = _command(app, federation), _environment(flower_home)
        self._largest = largest_message
        self._folder = tempfile.TemporaryDirectory(prefix="mosaic-flower-")
        self._runs = 0
        self._connection: socket.socket | None = None
        self._in_flight: set[str] = set()
        self._errors: dict[str, str] = {}
        self._start = self._started()
        try:
            self._wait(patience)
        except BaseException:
            self.close()
            raise

    def nodes(self) -> Mapping[int, str]:
        """See :class:`~mosaic.executors.remote.grid.Grid`; there are none while no run is connected."""
        return dict(self._called({"call": "nodes"}) or [])

    def push(self, node: int, data: bytes, seconds: float) -> str:
        """See :class:`~mosaic.executors.remote.grid.Grid`."""
        number = self._called({"call": "push", "node": node, "seconds": seconds}, data)
        if number is None:
            number = f"not sent {time.monotonic_ns()}"
            self._errors[number] = f"Flower takes no message for node {node} now"
        else:
            self._in_flight.add(number)
        return str(number)

    def pull(self, numbers: Collection[str]) -> list[Delivery]:
        """See :class:`~mosaic.executors.remote.grid.Grid`."""
        waiting = sorted(self._in_flight.intersection(numbers))
        answered = self._called({"call": "pull", "numbers": waiting, "most": self._largest}) if waiting else None
        deliveries = answered or []
        self._in_flight.difference_update(delivery.number for delivery in deliveries)
        failed = [number for number in numbers if number in self._errors]
        return [*deliveries, *(Delivery(number, None, self._errors.pop(number)) for number in failed)]

    def close(self) -> None:
        """End the run: its ServerApp leaves when the connection closes, or when it finds nobody to connect to."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._start.close()
        self._folder.cleanup()

    def _started(self) -> "_Start":
        self._runs += 1
        path = Path(self._folder.name, f"{self._runs}.sock")  # a late ServerApp of an earlier run finds nobody
        return _Start(self._command, self._environment, path)

    def _wait(self, patience: float) -> None:
        while (connection := self._start.accept()) is None:
            leave_if_asked()
            if failure := self._start.failure():
                raise FlowerError(f"executor: `{' '.join(self._command)}` failed: {failure}")
            if self._start.age() > patience:
                raise FlowerError(
                    f"executor: expected Flower to start the server's app within {patience:g} s, it has not: see that "
                    "the SuperLink runs, and what `flwr ls` and `flwr log` say"
                )
            time.sleep(0.1)
        self._connection = connection

    def _called(self, call: dict[str, Any], data: bytes | None = None) -> Any:
        """Return the ServerApp's answer; ``None`` if there is no ServerApp."""
        connection = self._connection = self._connection or self._again()
        if connection is None:
            return None
        try:
            send_frame(connection, json.dumps(call).encode())
            if data is not None:
                send_frame(connection, data)
            answer = json.loads(receive_frame(connection, _LARGEST_ANSWER))
            if call["call"] != "pull":
                return answer
            return [
                Delivery(number, None if error else receive_frame(connection, self._largest), error)
                for number, error in answer
            ]
        except (OSError, ValueError) as error:
            connection.close()
            self._connection = None
            self._errors |= dict.fromkeys(self._in_flight, f"the connection to Flower was lost ({error})")
            self._in_flight.clear()
            self._restart()
            return None

    def _again(self) -> socket.socket | None:
        """Return the connection of the run that was started last; start another if nothing comes of it."""
        if self._start.age() > (_PAUSE if self._start.failure() else _PATIENCE):
            self._restart()
        return self._start.accept()

    def _restart(self) -> None:
        self._start.close()
        self._start = self._started()


class FlowerExecutor(RemoteExecutor):
    """Asks clients through Flower: a SuperLink on this host, and a SuperNode beside each client.

    ``mosaic deploy`` writes the folders that it needs.

    Args:
        app: folder of the bundle that Flower ships to the sites.
        federation: name of the SuperLink in Flower's ``config.toml``.
        flower_home: folder with that file.
        settings: ``roster``, ``patience``, ``fewest`` and ``most_megabytes`` of :class:`RemoteExecutor`.
    """

    def __init__(
        self, app: str = "app", federation: str = "mosaic", flower_home: str = "home", **settings: Any
    ) -> None:
        super().__init__(**settings)
        self.app, self.federation, self.flower_home = app, federation, flower_home

    def open_grid(self) -> FlowerGrid:
        """Start a run of the bundle."""
        return FlowerGrid(Path(self.app), self.federation, Path(self.flower_home))


class _Start:
    """One ``flwr run``, and the socket on which its ServerApp is awaited.

    Args:
        command: what to run, but for the socket.
        environment: of the command.
        path: of the socket.
    """

    def __init__(self, command: list[str], environment: Mapping[str, str], path: Path) -> None:
        self._began, self._output = time.monotonic(), path.with_suffix(".log")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        path.chmod(0o600)
        self._listener.listen(1)
        self._listener.setblocking(False)
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [*command, "--run-config", f'socket="{path}"'],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
            )

    def age(self) -> float:
        """Return the seconds since the command was started."""
        return time.monotonic() - self._began

    def failure(self) -> str:
        """Return what the command said last, if it failed."""
        if not self._process.poll():
            return ""
        said = [line.strip() for line in self._output.read_text(errors="replace").splitlines() if line.strip()]
        return said[-1] if said else f"exit code {self._process.returncode}"

    def accept(self) -> socket.socket | None:
        """Return the connection of the ServerApp, if it is there."""
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return None
        connection.settimeout(_LONGEST_CALL)
        return connection

    def close(self) -> None:
        """Let nobody connect any more, and leave no child."""
        self._listener.close()
        self._process.kill()
        self._process.wait()


def _command(app: Path, federation: str) -> list[str]:
    if not (app / "pyproject.toml").is_file():
        raise MosaicError(f"executor.app: expected the folder `app` that `mosaic deploy` wrote, got {app}")
    flwr = shutil.which("flwr") or shutil.which("flwr", path=str(Path(sys.executable).parent))
    if flwr is None:
        raise MosaicError("executor: expected the command flwr, found none: pip install 'mosaic[flower]'")
    return [flwr, "run", str(app), federation]


def _environment(flower_home: Path) -> dict[str, str]:
    if not (flower_home / "config.toml").is_file():
        raise MosaicError(
            f"executor.flower_home: expected a folder with Flower's config.toml, as `mosaic deploy` writes it, got "
            f"{flower_home}"
        )
    return {**os.environ, **OFF_THE_NETWORK, "FLWR_HOME": str(flower_home.absolute())}
