"""What does a federation over Flower cost beside the same one simulated: in seconds, on the wire, in memory?

Runs what `make deploy-demo` runs, with a forwarder between the sites and the server that counts bytes, and prints the
tables of docs/deployment.md. Needs the extra `flower`; takes about five minutes on two cores.

    python benchmarks/deployment.py
"""

import asyncio
import json
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mosaic.deployment.deploy import deploy
from mosaic.deployment.loopback import Loopback, free_port
from mosaic.deployment.trial import CONFIG, DEALT, deal_out, finished, simulate

PARTS = {
    "flower-superlink": "SuperLink",
    "flwr-serverapp": "ServerApp (relay)",
    "mosaic fit": "mosaic fit",
    "flower-supernode": "SuperNode",
    "flwr-clientapp": "ClientApp (relay)",
    "mosaic client": "resident client",
}
MEBIBYTE = 2**20


class Forwarder:
    """Stands between the sites and the server until it is closed.

    Args:
        target: port on the loopback to which everything goes.

    Attributes:
        port: where it listens.
        bytes_up: from sites to the server.
        bytes_down: from the server to sites.
    """

    def __init__(self, target: int) -> None:
        self.bytes_up = self.bytes_down = self.port = 0
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()

    def close(self) -> None:
        """End all connections."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> asyncio.Server:
        server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self._pass(reader, back, up=True), self._pass(there, writer, up=False))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, up: bool) -> None:
        try:
            while piece := await reader.read(1 << 16):
                self.bytes_up += len(piece) * up
                self.bytes_down += len(piece) * (not up)
                writer.write(piece)
                await writer.drain()
        except OSError:
            pass  # one of both has ended, which the other learns here
        finally:
            writer.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class PeakMemory:
    """Samples the largest resident set of every kind of process, until it is closed."""

    def __init__(self, loopback: Loopback) -> None:
        self.mebibytes: dict[str, float] = {}
        self._loopback, self._ended = loopback, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Sample no more."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.5):
            for number, command in self._loopback.descendants().items():
                for word, part in PARTS.items():
                    if word in command:
                        self.mebibytes[part] = max(self.mebibytes.get(part, 0.0), _resident_mebibytes(number))


def _resident_mebibytes(number: int) -> float:
    try:
        status = Path("/proc", str(number), "status").read_text()
    except OSError:  # it has just ended
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="mosaic-trial-") as name:
        port, simulated = free_port(), Path(name, "simulated")
        folder = deploy(CONFIG, Path(name, "federation"), link_port=port, require=lambda _: DEALT["num_clients"])
        deal_out(folder)
        forwarder = Forwarder(port)
        with Loopback(folder, port, forwarder.port) as loopback:
            loopback.start()
            memory, before = PeakMemory(loopback), (forwarder.bytes_up, forwarder.bytes_down)
            whole = [finished(loopback.start_fit(), folder / "logs" / "fit.log")]
            memory.close()
            wire = forwarder.bytes_up - before[0], forwarder.bytes_down - before[1]
        forwarder.close()
        whole.append(simulate(CONFIG, simulated))
        runs = (folder / "server" / "run", simulated)
        ours, theirs = (json.loads((run / "summary.json").read_text()) for run in runs)
    phases = [(phase, spent, theirs["seconds"].get(phase, 0)) for phase, spent in ours["seconds"].items()]
    show(
        ("seconds", "over Flower", "simulated"),
        [
            (phase, *(f"{seconds:.1f}" for seconds in spent))
            for phase, *spent in [*phases, ("the whole command", *whole)]
        ],
    )
    show(
        ("mebibytes", "on the wire", "in summary.json"),
        [
            (direction, f"{passed / MEBIBYTE:.2f}", f"{in_all(ours[key]):.2f}")
            for direction, passed, key in zip(
                ("sites to server", "server to sites"), wire, ("bytes_up", "bytes_down"), strict=True
            )
        ],
    )
    show(
        ("process", "MiB of memory at most"),
        [(part, f"{memory.mebibytes[part]:.0f}") for part in PARTS.values() if part in memory.mebibytes],
    )


def in_all(sent: Mapping[str, int]) -> float:
    """Return what all kinds of messages weigh together, in mebibytes."""
    return sum(sent.values()) / MEBIBYTE


def show(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    table = Table(*head)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
