"""The server's process works without permission to read anything of a client."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.remote_clients import arguments, write_parts
from tests.small_runs import REPOSITORY

STRANGER = 12345
"""A user of the operating system that nobody is."""
CLIENTS = 2
POWERS = "-dac_override,-dac_read_search"
"""Without them even root reads only what belongs to it."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root can be stripped"),
]


def test_the_server_completes_without_permission_on_the_clients_folders(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "sockets").mkdir()
    config = write_parts(tmp_path / "data", CLIENTS)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    mosaic = [sys.executable, "-m", "mosaic"]
    clients = []
    for client in range(CLIENTS):
        own = tmp_path / f"site{client}"
        own.mkdir()
        shutil.move(tmp_path / "data" / f"{client}.npz", own / "images.npz")
        given = [
            *(
                f"--client={client}",
                f"--socket={tmp_path / 'sockets' / f'{client}.sock'}",
                f"--folder={own / 'memory'}",
            ),
            *("--data.source=NpzSource", f"--data.source.path={own / 'images.npz'}"),
        ]
        os.chown(own / "images.npz", STRANGER, STRANGER)
        os.chown(own, STRANGER, STRANGER)
        own.chmod(0o700)
        (own / "images.npz").chmod(0o600)
        clients.append(subprocess.Popen([*mosaic, "client", *arguments(config, "Mosaic"), *given], env=environment))
    stripped = ["setpriv", f"--bounding-set={POWERS}", f"--inh-caps={POWERS}", "--"]
    try:
        reads = subprocess.run([*stripped, "cat", tmp_path / "site0" / "images.npz"], capture_output=True, check=False)
        assert b"Permission denied" in reads.stderr
        server = [
            *("--executor=tests.remote_clients.OverSocketsExecutor", f"--executor.folder={tmp_path / 'sockets'}"),
            *(*arguments(config, "Mosaic"), f"--federation.run_dir={tmp_path / 'run'}"),
        ]
        done = subprocess.run(
            [*stripped, *mosaic, "fit", *server], env=environment, capture_output=True, text=True, check=False
        )
    finally:
        for process in clients:
            process.send_signal(signal.SIGTERM)
        codes = [process.wait(20) for process in clients]
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "summary.json").exists()
    assert codes == [0] * CLIENTS
