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
from mosaic.training.signals import FIRST_PROCESS_FOLDER, leave_if_alone_and_asked

_SECONDS_TO_LEAVE = 30
"""How long a process that was told to end may take before it is ended."""


class Companions:
    """Processes that run ``mosaic fit`` with the same configuration, as other ranks of the world.

    Args:
        world: of this process, which is rank 0.
        config: the parsed configuration as plain values.
        threads: CPU threads of each.
    """

    def __init__(self, world: World, config: Mapping[str, Any], threads: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="mosaic-ranks-")
        path = Path(self._folder.name) / "config.yaml"
        path.write_text(yaml.safe_dump(dict(config), sort_keys=False))
        command = [sys.executable, "-m", "mosaic", "fit", "--config", str(path), f"--executor.threads={threads}"]
        self._processes: list[subprocess.Popen[bytes]] = []
        for rank in range(1, world.size):
            variables = {
                **replace(world, rank=rank, local_rank=rank).variables(),
                FIRST_PROCESS_FOLDER: self._folder.name,
            }
            process = subprocess.Popen(command, env={**os.environ, **variables}, stdin=subprocess.PIPE)
            self._processes.append(process)

    def check(self) -> None:
        """Refuse to wait for processes that have ended.

        Raises:
            MosaicError: one has ended by itself.
            Preempted: a signal has come, perhaps to all of them.
        """
        leave_if_alone_and_asked()
        for rank, process in enumerate(self._processes, start=1):
            if (code := process.poll()) is not None:
                raise MosaicError(
                    f"executor.workers: expected process {rank} of {len(self._processes) + 1} to begin, got its end "
                    f"with exit code {code}: its own message stands above"
                )

    def end(self, told: bool) -> None:
        """Leave none of them running.

        Args:
            told: whether they know that it is over, and end by themselves.
        """
        for process in self._processes:
            try:
                process.wait(_SECONDS_TO_LEAVE if told else 0)
            except subprocess.TimeoutExpired:
                process.kill()  # it has nothing to tidy up
                process.wait()
            if process.stdin is not None:
                process.stdin.close()
        self._folder.cleanup()
