"""``python -m mosaic.deployment.trial``: a whole federation on this host, beside the same run simulated."""

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console

from mosaic.data import DirichletPartition, FederatedDataModule, SklearnDigits
from mosaic.deployment.deploy import deploy
from mosaic.deployment.loopback import Loopback, TrialError, free_port
from mosaic.errors import MosaicError
from mosaic.runs.checkpoint import same_weights
from mosaic.runs.directory import RunDirectory
from mosaic.training.signals import EXIT_CODE

CONFIG = Path(str(files("mosaic.deployment"))) / "trial.yaml"
DEALT: dict[str, Any] = {"num_clients": 3, "alpha": 1.0}


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
    given: dict[str, Any] = yaml.safe_load(config.read_text("utf-8"))
    partition = {"class_path": "mosaic.data.DirichletPartition", "init_args": DEALT}
    given["data"] |= {"source": "mosaic.data.SklearnDigits", "partition": partition}
    given["executor"] = {"class_path": "mosaic.executors.SerialExecutor", "init_args": {"threads": 1}}
    return given


def same_tensors(one: Path, other: Path) -> bool:
    """Return whether two runs have ended with the same global model, bit for bit."""
    return same_weights(RunDirectory(one).checkpoint, RunDirectory(other).checkpoint)


def main() -> None:
    """Run the trial, and say what happens."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_CODE))  # so that everything else is ended, too
    say = Console().print
    with ExitStack() as removal:
        place = Path(tempfile.mkdtemp(prefix="mosaic-trial-"))
        removal.callback(shutil.rmtree, place, ignore_errors=True)
        try:
            run_trial(place, CONFIG, lambda text: say(text, highlight=False))
        except TrialError as error:
            removal.pop_all()
            raise SystemExit(f"mosaic: error: {error}\nLogs, keys and runs are kept in {place}") from error
        except MosaicError as error:
            raise SystemExit(f"mosaic: error: {error}") from error


def run_trial(place: Path, config: Path, say: Callable[[str], None]) -> None:
    """Deploy, run, simulate, compare.

    Raises:
        TrialError: a process failed, or the two runs differ.
    """
    port, started = free_port(), time.monotonic()
    folder = deploy(config, place / "federation", link_port=port, require=lambda _: DEALT["num_clients"])
    deal_out(folder)
    say("Written: a folder for the server and one for each of three sites, which hold their digits and their keys.")
    with Loopback(folder, port) as loopback:
        loopback.start()
        ready = time.monotonic() - started
        say(f"A SuperLink with TLS, three nodes with keys and three resident clients are there after {ready:.0f} s.")
        seconds = finished(loopback.start_fit(), folder / "logs" / "fit.log")
        say(f"`mosaic fit` over Flower has ended after {seconds:.0f} s.")
        ending = time.monotonic()
        left = loopback.stop()
        say(f"Everything has ended within {time.monotonic() - ending:.0f} s; {len(left)} processes had to be killed.")
    one, other = folder / "server" / "run", place / "simulated"
    simulated = simulate(config, other)
    say(f"The same run, simulated in one process, took {simulated:.0f} s.")
    if not same_tensors(one, other):
        raise TrialError("expected the deployed run to end with the simulated one's model, bit for bit")
    say("Both have ended with the same global model, bit for bit.")


def finished(process: "subprocess.Popen[bytes]", log: Path) -> float:
    """Wait for ``mosaic fit``, and return for how many seconds.

    Raises:
        TrialError: it failed.
    """
    started = time.monotonic()
    if process.wait():
        raise TrialError(
            "mosaic fit failed; its log ends with:\n" + "\n".join(log.read_text("utf-8").splitlines()[-15:])
        )
    return time.monotonic() - started


def simulate(config: Path, run: Path) -> float:
    """Run the same with all images in one place, and return its seconds; see :func:`finished`."""
    file = run.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(simulated_configuration(config)))
    log = run.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mosaic", "fit", "--config", str(file), f"--federation.run_dir={run}"],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    return finished(process, log)


if __name__ == "__main__":
    main()
