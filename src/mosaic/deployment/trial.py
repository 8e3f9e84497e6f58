"""``python -m mosaic.deployment.trial``: a whole federation on this host, beside the same run simulated."""

import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from mosaic.data import DirichletPartition, FederatedDataModule, SklearnDigits
from mosaic.deployment.counting import Forwarder
from mosaic.deployment.deploy import deploy
from mosaic.deployment.loopback import Loopback, TrialError, free_port
from mosaic.errors import MosaicError
from mosaic.runs.checkpoint import same_weights
from mosaic.runs.directory import RunDirectory
from mosaic.training.signals import EXIT_CODE

CONFIG = Path(str(files("mosaic.deployment"))) / "trial.yaml"
DEALT: dict[str, Any] = {"num_clients": 3, "alpha": 1.0}
PARTS = {
    "flower-superlink": "SuperLink",
    "flwr-serverapp": "ServerApp (relay)",
    "mosaic fit": "mosaic fit",
    "flower-supernode": "SuperNode",
    "flwr-clientapp": "ClientApp (relay)",
    "mosaic client": "resident client",
}
_MEBIBYTE = 2**20


def deal_out(folder: Path) -> None:
    """Put a part of the digits into each site's folder, as the simulation deals them out."""
    data = FederatedDataModule(SklearnDigits(), DirichletPartition(**DEALT), validation_share=0.0)
    train = data.images.train
    for client, (own, _) in enumerate(data.splits):
        np.savez(
            folder / "sites" / f"{client:02d}" / "images.npz",
            train_images=train.pixels[own].numpy().transpose(0, 2, 3, 1),
            train_labels=train.labels[own].numpy(),
        )


def simulated_configuration(config: Path) -> dict[str, Any]:
    """Return the configuration of the same run with all images in one place."""
    given: dict[str, Any] = yaml.safe_load(config.read_text())
    partition = {"class_path": "mosaic.data.DirichletPartition", "init_args": DEALT}
    given["data"] |= {"source": "mosaic.data.SklearnDigits", "partition": partition}
    given["executor"] = {"class_path": "mosaic.executors.SerialExecutor", "init_args": {"threads": 1}}
    return given


def same_tensors(one: Path, other: Path) -> bool:
    """Return whether two runs have ended with the same global model, bit for bit."""
    return same_weights(RunDirectory(one).checkpoint, RunDirectory(other).checkpoint)


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
    """Run the trial, say what happens, and print the figures."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_CODE))  # so that everything else is ended, too
    say = Console().print
    with tempfile.TemporaryDirectory(prefix="mosaic-trial-") as name:
        try:
            figures = run_trial(Path(name), CONFIG, lambda text: say(text, highlight=False))
        except MosaicError as error:
            raise SystemExit(f"mosaic: error: {error}") from error
    for title, (head, rows) in figures.items():
        table = Table(title=title, title_justify="left")
        for column in head:
            table.add_column(column)
        for row in rows:
            table.add_row(*row)
        say(table)


def run_trial(
    place: Path, config: Path, say: Callable[[str], None]
) -> Mapping[str, tuple[tuple[str, ...], list[tuple[str, ...]]]]:
    """Deploy, run, simulate, compare.

    Returns:
        Tables by their title: head and rows.

    Raises:
        TrialError: a process failed, or the two runs differ.
    """
    port, started = free_port(), time.monotonic()
    folder = deploy(config, place / "federation", link_port=port)
    deal_out(folder)
    say("Written: a folder for the server and one for each of three sites, which hold their digits and their keys.")
    forwarder = Forwarder(port)
    with Loopback(folder, port, forwarder.port) as loopback:
        loopback.start()
        ready = time.monotonic() - started
        say(f"A SuperLink with TLS, three nodes with keys and three resident clients are there after {ready:.0f} s.")
        memory, before = PeakMemory(loopback), (forwarder.bytes_up, forwarder.bytes_down)
        seconds = _finished(loopback.start_fit(), folder / "logs" / "fit.log")
        memory.close()
        wire = forwarder.bytes_up - before[0], forwarder.bytes_down - before[1]
        say(f"`mosaic fit` over Flower has ended after {seconds:.0f} s.")
        ending = time.monotonic()
        left = loopback.stop()
        say(f"Everything has ended within {time.monotonic() - ending:.0f} s; {len(left)} processes had to be killed.")
    forwarder.close()
    one, other = folder / "server" / "run", place / "simulated"
    simulated = _simulate(config, other)
    say(f"The same run, simulated in one process, took {simulated:.0f} s.")
    if not same_tensors(one, other):
        raise TrialError(f"expected the deployed run to end with the simulated one's model, bit for bit; see {one}")
    say("Both have ended with the same global model, bit for bit.")
    ours, theirs = (json.loads((run / "summary.json").read_text()) for run in (one, other))
    return {
        "Seconds": (
            ("phase", "over Flower", "simulated"),
            [
                *(
                    (phase, f"{spent:.1f}", f"{theirs['seconds'].get(phase, 0):.1f}")
                    for phase, spent in ours["seconds"].items()
                ),
                ("the whole command", f"{seconds:.1f}", f"{simulated:.1f}"),
            ],
        ),
        "Mebibytes": (
            ("direction", "on the wire", "in summary.json"),
            [
                ("sites to server", f"{wire[0] / _MEBIBYTE:.2f}", f"{_total(ours, 'bytes_up'):.2f}"),
                ("server to sites", f"{wire[1] / _MEBIBYTE:.2f}", f"{_total(ours, 'bytes_down'):.2f}"),
            ],
        ),
        "Memory": (
            ("process", "MiB at most"),
            [(part, f"{memory.mebibytes[part]:.0f}") for part in PARTS.values() if part in memory.mebibytes],
        ),
    }


def _total(summary: Mapping[str, Any], key: str) -> float:
    return float(sum(summary[key].values()) / _MEBIBYTE)


def _finished(process: "subprocess.Popen[bytes]", log: Path) -> float:
    started = time.monotonic()
    if process.wait():
        raise TrialError("mosaic fit failed; its log ends with:\n" + "\n".join(log.read_text().splitlines()[-15:]))
    return time.monotonic() - started


def _simulate(config: Path, run: Path) -> float:
    file = run.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(simulated_configuration(config)))
    log = run.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mosaic", "fit", "--config", str(file), f"--federation.run_dir={run}"],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    return _finished(process, log)


if __name__ == "__main__":
    main()
