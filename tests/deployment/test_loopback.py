"""Whole federations over Flower, of processes on the loopback."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from mosaic.deployment.authority import make_node_files, make_server_files
from mosaic.deployment.deploy import deploy
from mosaic.deployment.loopback import Loopback, free_port, marked
from mosaic.deployment.trial import CONFIG, deal_out, same_tensors, simulated_configuration

pytest.importorskip("flwr", reason="Flower is an extra: pip install 'mosaic[flower]'")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
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
    folder = deploy(CONFIG, place / "federation", port=port, link_port=port)
    deal_out(folder)
    loopback = Federation(folder, port)
    try:
        yield loopback
    finally:
        killed = loopback.stop()
    assert killed == [], "everything ends within ten seconds of SIGTERM, and leaves no orphan"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with on_loopback(tmp_path_factory.mktemp("loopback")) as loopback:
        loopback.start()
        yield loopback


def simulated(config: Mapping[str, Any], place: Path) -> Path:
    """Run the same with all images in one place."""
    (place / "given.yaml").write_text(yaml.safe_dump(config))
    (place / "simulated.yaml").write_text(yaml.safe_dump(simulated_configuration(place / "given.yaml")))
    command = [sys.executable, "-m", "mosaic", "fit", "--config", place / "simulated.yaml"]
    subprocess.run([*command, f"--federation.run_dir={place / 'simulated'}"], check=True, capture_output=True)
    return place / "simulated"


@pytest.mark.parametrize("algorithm", ["Mosaic", "FedAvg", "FedBN"])
def test_deployed_is_simulated_bit_for_bit(algorithm: str, shared: Federation, tmp_path: Path) -> None:
    config = configuration(algorithm, rounds=2)
    shared.configure(config)
    assert shared.fit() == 0, shared.log("fit")
    assert shared.summary()["failed"] == []
    assert same_tensors(shared.run, simulated(config, tmp_path))


def test_a_run_survives_the_end_of_a_node_which_comes_back(shared: Federation) -> None:
    shared.configure(configuration("FedAvg", rounds=4))
    before = shared.asked("01")
    run = shared.start_fit()
    shared.until(lambda: shared.asked("01") > before)
    shared.kill("node01")
    shared.until(lambda: "client 1 failed" in shared.log("fit").rpartition("clients are there")[2])
    os.killpg(run.pid, signal.SIGSTOP)  # so that there are rounds left when the node is back
    back = shared.log("node01").count("SuperNode ID")
    while shared.log("node01").count("SuperNode ID") == back:  # as systemd would: too early, it is refused
        node = shared.start_node("01")
        shared.until(
            lambda node=node: node.poll() is not None or shared.log("node01").count("SuperNode ID") > back  # type: ignore[misc]
        )
        time.sleep(5)
    before = shared.asked("01")
    os.killpg(run.pid, signal.SIGCONT)
    assert run.wait(timeout=600) == 0, shared.log("fit")
    assert {each["client"] for each in shared.summary()["failed"]} == {1}
    assert shared.asked("01") > before, "the node is back in the run"


def test_a_run_survives_the_end_of_the_superlink(shared: Federation, tmp_path: Path) -> None:
    config = configuration("FedAvg", rounds=3, retries=1)
    shared.configure(config)
    before = shared.asked("00")
    run = shared.start_fit()
    shared.until(lambda: shared.asked("00") > before)
    shared.kill("link")
    shared.end(*(f"node{site}" for site in SITES))
    shared.start_link()
    for site in SITES:
        shared.start_node(site)
    code = run.wait(timeout=900)
    if code == 69:
        code = shared.fit()
    assert code == 0, shared.log("fit")
    assert same_tensors(shared.run, simulated(config, tmp_path))


def test_a_node_with_an_unknown_key_is_refused(shared: Federation) -> None:
    key = shared.folder / "sites" / "02" / "node.key"
    with exchanged(shared, "02", key, make_node_files().key) as node:
        assert node.wait(timeout=120) != 0
    assert "SuperNode ID" not in shared.log("node02").rpartition("Starting Flower SuperNode")[2]


def test_a_node_does_not_speak_to_a_server_of_another_authority(shared: Federation) -> None:
    certificate = shared.folder / "sites" / "02" / "ca.crt"

    def said() -> str:
        return shared.log("node02").rpartition("Starting Flower SuperNode")[2]

    with exchanged(shared, "02", certificate, make_server_files(["localhost"], 1).authority):
        shared.until(lambda: "SSL/TLS handshake error" in said())
        assert "SuperNode ID" not in said()


@contextmanager
def exchanged(shared: Federation, site: str, file: Path, content: bytes) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a site's node with another file than its own, and put everything back."""
    own = file.read_bytes()
    shared.end(f"node{site}")
    file.write_bytes(content)
    try:
        yield shared.start_node(site)
    finally:
        shared.end(f"node{site}")
        file.write_bytes(own)


def test_the_door_opens_to_nodes_alone(shared: Federation) -> None:
    port, server = free_port(), shared.folder / "server"
    gate = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("gate.py"), str(port), str(shared._link_port), str(server)]
    )
    try:
        with httpx.Client(base_url=f"https://localhost:{port}", verify=str(server / "ca.crt"), timeout=60) as outside:
            shared.until(lambda: answers(outside))
            for path in ("/v1/control/list-runs", "/v1/runtime/acquire-task", "/", "/docs"):
                assert outside.post(path).status_code == 404
        shared._sites_port = port
        if "node02" in shared._processes:
            shared.end("node02")
        before = shared.log("node02").count("SuperNode ID")
        shared.start_node("02")
        shared.until(lambda: shared.log("node02").count("SuperNode ID") > before)
        shared.end("node02")
    finally:
        gate.terminate()
        gate.wait()
        shared._sites_port = shared._link_port


def answers(client: httpx.Client) -> bool:
    try:
        client.get("/")
    except httpx.TransportError:
        return False
    return True


def test_a_trial_that_is_told_to_leave_leaves_nothing() -> None:
    mark = f"MOSAIC_TEST={os.getpid()}"
    environment = dict([*os.environ.items(), tuple(mark.split("="))])
    trial = subprocess.Popen([sys.executable, "-m", "mosaic.deployment.trial"], env=environment)
    while not any("flower-supernode" in command for command in marked(mark).values()):
        assert trial.poll() is None
        time.sleep(0.2)
    trial.terminate()
    assert trial.wait(timeout=15) == 75
    assert marked(mark) == {}


def test_the_trial_needs_no_network(tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a network namespace needs root and unshare")
    script = "ip link set lo up && python -m mosaic.deployment.trial && grep ^Ip: /proc/net/snmp"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["unshare", "-n", "sh", "-c", script], env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    names, counts = (line.split()[1:] for line in done.stdout.splitlines()[-2:])
    assert dict(zip(names, counts, strict=True))["OutNoRoutes"] == "0", "something looked for a way out"
