"""All parties of a federation as processes of this host, from a folder that ``mosaic deploy`` wrote."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType, TracebackType

from mosaic.errors import MosaicError

MARK = "MOSAIC_TRIAL"
"""Environment variable by which everything that a trial has started is found."""
_READY, _LEAVE, _AFTER = 180.0, 60.0, 2.0  # seconds: until a process is ready, to leave, for what it has started


class TrialError(MosaicError):
    """A process of the trial does not do what it should."""

    exit_code = 1


class Loopback:
    """Starts, kills and stops the SuperLink, the nodes and the resident clients of one folder.

    Args:
        folder: what ``mosaic deploy`` wrote.
        link_port: of the SuperLink.
        sites_port: port at which the sites find the server; that of the SuperLink when not given.
        users: numbers of the operating system's users that processes run as, by ``link``, ``fit``, ``client`` and
            ``node``; this process's own where not given.
    """

    def __init__(
        self,
        folder: Path,
        link_port: int,
        sites_port: int | None = None,
        users: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.folder, self.logs = folder.absolute(), folder.absolute() / "logs"
        self.sites = sorted(place.name for place in (self.folder / "sites").iterdir())
        self._link_port, self._sites_port = link_port, sites_port or link_port
        self._users, self._mark = users, secrets.token_hex(8)
        self._sockets = Path(tempfile.mkdtemp(prefix="mosaic-trial-"))  # a socket's path must be short
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.logs.mkdir(exist_ok=True)
        self._write_command()

    def __enter__(self) -> "Loopback":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything, and return when all nodes are known to the SuperLink."""
        for site in self.sites:
            self.start_client(site)
        self.start_link()
        self.register()
        for site in self.sites:
            self.start_node(site)
        for site in self.sites:
            self.await_site(site)

    def start_link(self) -> None:
        """Start the SuperLink, and return when it answers."""
        self._begin("link", "server/superlink.sh", LINK_PORT=str(self._link_port))
        self._until("link", lambda: _listens(self._link_port))

    def register(self) -> None:
        """Make all keys of the folder known to the SuperLink."""
        done = subprocess.run(
            [self.folder / "server" / "register.sh"],
            env=self._environment(),
            user=self._users.get("link"),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise TrialError(f"register.sh failed: {(done.stdout + done.stderr).strip()[-500:]}")

    def start_client(self, site: str) -> None:
        """Start a site's resident client."""
        self._begin(f"client{site}", f"sites/{site}/client.sh", SOCKET=str(self.socket(site)))

    def start_node(self, site: str) -> "subprocess.Popen[bytes]":
        """Start a site's node."""
        return self._begin(
            f"node{site}",
            f"sites/{site}/supernode.sh",
            SOCKET=str(self.socket(site)),
            SUPERLINK=f"localhost:{self._sites_port}",
            NODE_PORT=str(free_port()),
        )

    def await_site(self, site: str) -> None:
        """Return when a site's client listens, and its node is known to the SuperLink."""
        self._until(f"client{site}", self.socket(site).exists)
        self._until(f"node{site}", lambda: "SuperNode ID" in self.log(f"node{site}"))

    def start_fit(self, *flags: str) -> subprocess.Popen[bytes]:
        """Start ``mosaic fit`` as the server does."""
        return self._begin("fit", "server/fit.sh", *flags)

    def kill(self, name: str) -> None:
        """Kill one process so that it cannot tidy up; what it has started may live on for a moment."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def end(self, *names: str, seconds: float = _LEAVE) -> list[str]:
        """Ask processes and what they have started to leave, as systemd does; return the names of those killed."""
        for name in names:
            with suppress(ProcessLookupError):
                os.killpg(self._processes[name].pid, signal.SIGTERM)
        end, killed = time.monotonic() + seconds, []
        for name in names:
            try:
                self._processes[name].wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.kill(name)
                killed.append(name)
            else:
                del self._processes[name]
        return killed

    def stop(self, seconds: float = 10.0) -> list[str]:
        """End everything within so many seconds, the SuperLink last, and return what had to be killed."""
        end, killed = time.monotonic() + seconds, []
        for groups in (("fit",), ("node", "client"), ("link",)):
            names = [name for name in self._processes if name.startswith(groups)]
            killed += self.end(*names, seconds=end - time.monotonic() - _AFTER)
        for number in self.descendants():  # of a process that was killed, as systemd ends what is left of a unit
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGTERM)
        while self.descendants() and time.monotonic() < end:
            time.sleep(0.1)
        for number, command in self.descendants().items():
            os.kill(number, signal.SIGKILL)
            killed.append(command)
        shutil.rmtree(self._sockets, ignore_errors=True)
        return killed

    def descendants(self) -> dict[int, str]:
        """Return the command lines, by process id, of everything that this trial has started and that runs."""
        return marked(f"{MARK}={self._mark}")

    def socket(self, site: str) -> Path:
        """Return where a site's client listens."""
        return self._sockets / f"{site}.sock"

    def log(self, name: str) -> str:
        """Return what a process has said."""
        return (self.logs / f"{name}.log").read_text(errors="replace")

    def _begin(self, name: str, script: str, *flags: str, **environment: str) -> subprocess.Popen[bytes]:
        with (self.logs / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [self.folder / script, *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment() | environment,
                user=self._users.get(name.rstrip("0123456789")),
                start_new_session=True,  # Ctrl-C at the trial's terminal must not end everything at once
            )
        return self._processes[name]

    def _environment(self) -> dict[str, str]:
        """Let scripts find the commands of this environment, and ``mosaic`` as it runs here, with one thread each.

        All parties share this host, and results are bit-identical only for equal threads.
        """
        bins = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
        ours = {"PATH": bins, "MOSAIC_BIN": str(self.folder / "bin"), "OMP_NUM_THREADS": "1", MARK: self._mark}
        return {**os.environ, **ours}

    def _write_command(self) -> None:
        command = self.folder / "bin" / "mosaic"
        command.parent.mkdir(exist_ok=True)
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mosaic "$@"\n')
        command.chmod(0o755)

    def _until(self, name: str, ready: Callable[[], bool]) -> None:
        end = time.monotonic() + _READY
        while not ready():
            ended = self._processes[name].poll() is not None
            if ended or time.monotonic() > end:
                said = "\n".join(self.log(name).strip().splitlines()[-5:])
                raise TrialError(f"{name} {'has ended' if ended else 'is not ready'}; its log ends with:\n{said}")
            time.sleep(0.1)


def free_port() -> int:
    """Return a port of the loopback that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def marked(setting: str) -> dict[int, str]:
    """Return the command lines, by process id, of the other processes that run with this in their environment."""
    others = (place for place in Path("/proc").glob("[0-9]*") if place.name != str(os.getpid()))  # of Linux
    ours = [place for place in others if setting.encode() in _read(place / "environ").split(b"\0")]
    commands = {
        int(place.name): _read(place / "cmdline").replace(b"\0", b" ").decode(errors="replace") for place in ours
    }
    return {number: command for number, command in commands.items() if command}  # who has ended has none


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended, or is not ours
        return b""
