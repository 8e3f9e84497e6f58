"""The other processes of a world that this process starts on its own machine, and ends."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from mosaic.errors import MosaicError
from mosaic.executors.processes.environment import World
from mosaic.training.signals import FIRST_PROCESS_FOLDER


class ChildProcesses:
    """Processes that run ``mosaic fit`` with the same configuration, as the other ranks of rank 0's world."""

    def __init__(self, world: World, config: Mapping[str, Any], threads: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="mosaic-ranks-")
        path = Path(self._folder.name) / "config.yaml"
        path.write_text(yaml.safe_dump(dict(config), sort_keys=False))
        command = [sys.executable, "-m", "mosaic", "fit", "--config", str(path), f"--executor.threads={threads}"]
        self._processes: list[subprocess.Popen[bytes]] = []
        for rank in range(1, world.size):
            variables = replace(world, rank=rank, local_rank=rank).variables()
            environment = {**os.environ, **variables, FIRST_PROCESS_FOLDER: self._folder.name}
            self._processes.append(subprocess.Popen(command, env=environment, stdin=subprocess.PIPE))

    def check(self) -> None:
        """Refuse to wait for a process that has ended."""
        for rank, process in enumerate(self._processes, start=1):
            if (code := process.poll()) is not None:
                raise MosaicError(
                    f"executor.workers: expected process {rank} of {len(self._processes) + 1} to start, got its end "
                    f"with exit code {code}: its own message stands above"
                )

    def end(self, asked: bool) -> None:
        """Leave none of them running; wait for their end if all were asked to, else kill them."""
        for process in self._processes:
            with process:  # which waits too, and closes its standard input
                try:
                    process.wait(30 if asked else 0)
                except subprocess.TimeoutExpired:
                    process.kill()  # it has nothing to tidy up
        self._folder.cleanup()
