"""What tests of whole federations over Flower share."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from mosaic.deployment.deploy import deploy
from mosaic.deployment.loopback import Loopback, free_port
from mosaic.deployment.trial import CONFIG, deal_out, simulated_configuration

SITES = ("00", "01", "02")


def configuration(algorithm: str, rounds: int, **faults: Any) -> dict[str, Any]:
    """A run of few steps; Mosaic distils in its last round."""
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    config["algorithm"]["class_path"] = f"mosaic.algorithms.{algorithm}"
    if algorithm != "Mosaic":
        del config["algorithm"]["init_args"]
    schedule = config["federation"]["schedule"]
    schedule |= {"collaborative_rounds": rounds, "local_steps": 5, "fine_tune_rounds": 0}
    schedule["distill_rounds"] = [rounds]
    config["federation"]["faults"] = faults
    return config


class Federation(Loopback):
    """Three sites that can be given another configuration."""

    def configure(self, config: Mapping[str, Any]) -> None:
        """Give all parties a configuration, and start the clients anew."""
        for place in (self.folder / "server", *(self.folder / "sites" / site for site in SITES)):
            (place / "federation.yaml").write_text(yaml.safe_dump(config))
        self.end(*(f"client{site}" for site in SITES if f"client{site}" in self._processes))
        for site in SITES:
            self.start_client(site)
        for site in SITES:
            self._until(f"client{site}", self.socket(site).exists)
        shutil.rmtree(self.folder / "server" / "run", ignore_errors=True)

    def fit(self) -> int:
        """Run the server to its end, and return its exit code."""
        return self.start_fit().wait(timeout=600)

    def until(self, happened: Callable[[], bool]) -> None:
        end = time.monotonic() + 300
        while not happened():
            assert time.monotonic() < end, self.log("fit")
            time.sleep(0.1)

    def asked(self, site: str) -> int:
        """How many requests a client has answered."""
        return self.log(f"client{site}").count("Request -> ")

    @property
    def run(self) -> Path:
        return self.folder / "server" / "run"

    def summary(self) -> Any:
        return json.loads((self.run / "summary.json").read_text())


@contextmanager
def on_loopback(place: Path) -> Iterator[Federation]:
    port = free_port()
    folder = deploy(CONFIG, place / "federation", link_port=port, require=lambda _: 3)
    deal_out(folder)
    loopback = Federation(folder, port)
    try:
        yield loopback
    finally:
        killed = loopback.stop(seconds=120)  # ten are enough on a quiet machine
    assert killed == [], f"everything ends when it is told to, and leaves no orphan: {killed}"


def simulated(config: Mapping[str, Any], place: Path) -> Path:
    """Run the same with all images in one place."""
    (place / "given.yaml").write_text(yaml.safe_dump(config))
    (place / "simulated.yaml").write_text(yaml.safe_dump(simulated_configuration(place / "given.yaml")))
    command = [sys.executable, "-m", "mosaic", "fit", "--config", place / "simulated.yaml"]
    subprocess.run([*command, f"--federation.run_dir={place / 'simulated'}"], check=True, capture_output=True)
    return place / "simulated"


def own(place: Path, user: int) -> None:
    for path in (place, *place.rglob("*")):
        os.chown(path, user, -1)


def configured(place: Path, config: Mapping[str, Any]) -> Path:
    (place / "given.yaml").write_text(yaml.safe_dump(config))
    return place / "given.yaml"
