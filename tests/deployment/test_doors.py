"""Who and what is kept out of a federation over Flower, and that nothing gets out."""

import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mosaic.deployment.authority import make_node_files, make_server_files
from mosaic.deployment.deploy import deploy
from mosaic.deployment.loopback import free_port, marked
from mosaic.deployment.trial import deal_out
from tests.deployment.federations import SITES, Federation, configuration, configured, own

pytest.importorskip("flwr", reason="Flower is an extra: pip install '.[flower]'")
httpx = pytest.importorskip("httpx", reason="it comes with Flower")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_a_node_with_an_unknown_key_is_refused(shared: Federation) -> None:
    key = shared.folder / "sites" / "02" / "node.key"
    with exchanged(shared, "02", key, make_node_files().key) as node:
        assert node.wait(timeout=120) != 0
    assert "SuperNode ID" not in shared.log("node02").rpartition("Starting Flower SuperNode")[2]


def test_a_node_does_not_speak_to_a_server_of_another_authority(shared: Federation) -> None:
    certificate = shared.folder / "sites" / "01" / "ca.crt"

    def said() -> str:
        return shared.log("node01").rpartition("Starting Flower SuperNode")[2]

    with exchanged(shared, "01", certificate, make_server_files(["localhost"], 1).authority):
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
        trust = ssl.create_default_context(cafile=server / "ca.crt")
        with httpx.Client(base_url=f"https://localhost:{port}", verify=trust, timeout=60) as outside:
            shared.until(lambda: answers(outside))
            for path in ("/v1/control/list-runs", "/v1/runtime/acquire-task", "/", "/docs"):
                assert outside.post(path).status_code == 404
        shared._sites_port = port
        shared.end("node00")
        before = shared.log("node00").count("SuperNode ID")
        shared.start_node("00")
        shared.until(lambda: shared.log("node00").count("SuperNode ID") > before)
        shared.end("node00")
    finally:
        gate.terminate()
        gate.wait()


def answers(client: Any) -> bool:
    try:
        client.get("/")
    except httpx.TransportError:
        return False
    return True


def test_images_are_for_the_client_s_user_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """SuperLink and fit are one user, resident clients another, nodes a third; they share a group for the sockets."""
    server, client, node = 10_000, 10_001, 10_002
    if os.geteuid() != 0 or not runs_as(server):
        pytest.skip("only root can be several users, who must reach this Python")
    monkeypatch.setenv("GROUP", "root")
    with tempfile.TemporaryDirectory(prefix="mosaic-users-") as name:
        port, place = free_port(), Path(name)
        place.chmod(0o711)
        config = configured(place, configuration("FedAvg", rounds=1))
        folder = deploy(config, place / "federation", link_port=port, require=lambda _: 3)
        folder.chmod(0o711)
        deal_out(folder)
        own(folder / "server", server)
        for site in SITES:
            own(folder / "sites" / site, client)
            (folder / "sites" / site / "images.npz").chmod(0o600)
            (folder / "sites" / site / "home").mkdir()
            for ours in ("home", "node.key"):
                own(folder / "sites" / site / ours, node)
        users = {"link": server, "fit": server, "client": client, "node": node}
        loopback = Federation(folder, port, users=users)
        loopback._sockets.chmod(0o770)
        os.chown(loopback._sockets, client, -1)
        try:
            loopback.start()
            assert loopback.fit() == 0, loopback.log("fit")
            for user in (server, node):
                images = folder / "sites" / "00" / "images.npz"
                assert subprocess.run(["cat", images], user=user, capture_output=True).returncode == 1
        finally:
            assert loopback.stop(seconds=120) == []


def runs_as(user: int) -> bool:
    try:
        return subprocess.run([sys.executable, "-c", "import torch, mosaic"], user=user).returncode == 0
    except PermissionError:
        return False


def test_a_trial_that_is_told_to_leave_leaves_nothing() -> None:
    mark = f"MOSAIC_TEST={os.getpid()}"
    environment = dict([*os.environ.items(), tuple(mark.split("="))])
    trial = subprocess.Popen([sys.executable, "-m", "mosaic.deployment.trial"], env=environment)
    while not any("flower-supernode" in command for command in marked(mark).values()):
        assert trial.poll() is None
        time.sleep(0.2)
    trial.terminate()
    assert trial.wait(timeout=120) == 75
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
