"""The other processes of a world that this process starts on its own machine, and ends."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import yaml

from mosaic.errors import MosaicError
from mosaic.executors.processes.environment import World
from mosaic.training.signals import FIRST_PROCESS, FIRST_PROCESS_FOLDER


class ChildProcesses:
    """Processes that run ``mosaic fit`` with the same configuration, as the other ranks of rank 0's world."""

    def __init__(self, config: Mapping[str, Any], threads: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="mosaic-ranks-")
        path = Path(self._folder.name) / "config.yaml"
        path.write_text(yaml.safe_dump(dict(config), sort_keys=False))
        self._command = [sys.executable, "-m", "mosaic", "fit", "--config", str(path), f"--executor.threads={threads}"]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._changing, self._ended = Lock(), False

    def start(self, world: World, rank: int) -> None:
        """Start a rank, in place of one that has lost its connection if there is one."""
        variables = replace(world, rank=rank, local_rank=rank).variables()
        started = {FIRST_PROCESS: str(os.getpid()), FIRST_PROCESS_FOLDER: self._folder.name}
        with self._changing:
            if self._ended:
                raise MosaicError(f"executor: expected to start process {rank} during the run, got its end")
            if rank in self._processes:
                _end(self._processes[rank], seconds=0)
            self._processes[rank] = subprocess.Popen(self._command, env={**os.environ, **variables, **started})

    def check(self, ranks: Iterable[int]) -> None:
        """Refuse to wait for one of these ranks whose process has ended."""
        for rank in ranks:
            if (code := self._processes[rank].poll()) is not None:
                raise MosaicError(
                    f"executor.workers: expected process {rank} of {len(self._processes) + 1} to start, got its end "
                    f"with exit code {code}: its own message stands above"
                )

    def end(self, asked: bool) -> None:
        """Leave none of them running; wait for their end if all were asked to, else kill them."""
        with self._changing:
            self._ended = True
            for process in self._processes.values():
                _end(process, seconds=30 if asked else 0)
        self._folder.cleanup()


def _end(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    """Wait for a process, and kill it after so many seconds."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()  # it has nothing to tidy up
        process.wait()
