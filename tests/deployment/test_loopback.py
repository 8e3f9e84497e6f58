"""Whole federations over Flower, of processes on the loopback: the same bits as simulated, and what survives what."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from mosaic.codec import decode
from mosaic.deployment.trial import same_tensors
from mosaic.server.state import ServerState
from tests.deployment.federations import Federation, configuration, simulated

pytest.importorskip("flwr", reason="Flower is an extra: pip install '.[flower]'")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
LAST = Path("rounds", "0002", "server.safetensors")


@pytest.mark.parametrize("algorithm", ["Mosaic", "FedAvg", "FedBN"])
def test_deployed_is_simulated_bit_for_bit(algorithm: str, shared: Federation, tmp_path: Path) -> None:
    config = configuration(algorithm, rounds=2)
    shared.configure(config)
    assert shared.fit() == 0, shared.log("fit")
    assert shared.summary()["failed"] == []
    other = simulated(config, tmp_path)
    if algorithm != "FedBN":  # which has no global model; its clients' own layers show in what is averaged afterwards
        assert same_tensors(shared.run, other)
    ours, theirs = (decode((run / LAST).read_bytes(), ServerState) for run in (shared.run, other))
    assert ours.model.keys() == theirs.model.keys()
    assert all(torch.equal(ours.model[name], theirs.model[name]) for name in ours.model)


@pytest.mark.parametrize("phase", ["Train", "Generator", "Prototype", "Evaluate"])
def test_a_run_survives_the_end_of_a_node_which_comes_back(phase: str, shared: Federation) -> None:
    """It is killed when its client has answered in this phase, and before that answer is on its way to the server."""
    config = configuration("Mosaic", rounds=3)
    config["federation"]["schedule"]["distill_rounds"] = [1]
    shared.configure(config)
    before = shared.log("client01").count(f"{phase}Request -> ")
    run = shared.start_fit()
    shared.until(lambda: shared.log("client01").count(f"{phase}Request -> ") > before)
    shared.kill("node01")
    shared.until(lambda: "client 1 failed" in shared.log("fit").rpartition("clients are there")[2])
    os.killpg(run.pid, signal.SIGSTOP)  # so that there are rounds left when the node is back
    known = shared.log("node01").count("SuperNode ID")
    while not came_back(shared, known):  # before a minute is over it is refused; systemd would try again, too
        shared.end("node01")
        time.sleep(5)
    before = shared.asked("01")
    os.killpg(run.pid, signal.SIGCONT)
    assert run.wait(timeout=600) == 0, shared.log("fit")
    assert {each["client"] for each in shared.summary()["failed"]} == {1}
    assert shared.asked("01") > before, "the node is back in the run"


def came_back(shared: Federation, known: int) -> bool:
    node = shared.start_node("01")
    shared.until(lambda: node.poll() is not None or shared.log("node01").count("SuperNode ID") > known)
    return shared.log("node01").count("SuperNode ID") > known


def test_a_run_survives_the_end_of_the_superlink(shared: Federation, tmp_path: Path) -> None:
    config = configuration("FedAvg", rounds=3, retries=1)
    shared.configure(config)
    before = shared.asked("00")
    run = shared.start_fit()
    shared.until(lambda: shared.asked("00") > before)
    shared.kill("link")
    shared.start_link()
    code = run.wait(timeout=900)
    assert code == 0, shared.log("fit")
    assert "the connection to Flower was lost" in shared.log("fit")
    assert same_tensors(shared.run, simulated(config, tmp_path))
