"""Run the app of mosaic.relay once, by Flower's command line."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from mosaic.errors import MosaicError

FLOWER = "flwr>=1.42,<1.43"
"""What the extra ``flower`` of this package asks for."""
OFF_THE_NETWORK = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
"""Without these Flower's commands open connections to its makers and to a package index."""
_LONGEST_CALL = 600.0  # seconds; Flower itself gives one message's upload 180
_FRAME = " \t╭╮╰╯│─"
"""What the command draws around what it says."""
_LAST_LINES, _LONGEST_TEXT = 12, 400


class FlowerError(MosaicError):
    """Flower does not do what it should although the request is right."""

    exit_code = 1


class FlowerRun:
    """One ``flwr run``, and the socket on which its ServerApp is awaited.

    Args:
        command: what to run, but for the socket.
        environment: of the command.
        path: of the socket.
    """

    def __init__(self, command: list[str], environment: Mapping[str, str], path: Path) -> None:
        self._began, self._output = time.monotonic(), path.with_suffix(".log")
        self._listener = socket.socket(socket.AF_UNIX)
        try:
            self._listener.bind(str(path))
        except OSError as error:
            self._listener.close()
            advice = ": set TMPDIR to a shorter path" if "too long" in str(error) else ""
            raise FlowerError(f"executor: {path} cannot be made ({error}){advice}") from error
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
        lines = [line.strip(_FRAME) for line in self._output.read_text(errors="replace").splitlines()]
        said = " ".join(line for line in lines[-_LAST_LINES:] if line)
        return said[-_LONGEST_TEXT:] if said else f"exit code {self._process.returncode}"

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


def command_for(app: Path, federation: str) -> list[str]:
    """Return the command that runs a bundle."""
    if not (app / "pyproject.toml").is_file():
        raise MosaicError(f"executor.app: expected the folder `app` that `mosaic deploy` wrote, got {app}")
    flwr = shutil.which("flwr") or shutil.which("flwr", path=str(Path(sys.executable).parent))
    if flwr is None:
        raise MosaicError(f"executor: expected the command flwr, found none: pip install '{FLOWER}'")
    return [flwr, "run", str(app), federation]


def environment_for(flower_home: Path) -> dict[str, str]:
    """Return the environment in which Flower's command stays off the network."""
    if not (flower_home / "config.toml").is_file():
        raise MosaicError(
            f"executor.flower_home: expected a folder with Flower's config.toml, as `mosaic deploy` writes it, got "
            f"{flower_home}"
        )
    return {**os.environ, **OFF_THE_NETWORK, "FLWR_HOME": str(flower_home.absolute())}
