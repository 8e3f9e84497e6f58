"""The folder of one run: made whole, never overwritten, written by one process at a time."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from mosaic.disk import lock, make_writable, sync, write_whole
from mosaic.errors import MosaicError, printable
from mosaic.runs.environment import describe_environment
from mosaic.runs.facts import is_whole

DRY_RUN = "mosaic-dry-run-"
"""How the names of the folders begin in which dry runs lie as long as they last."""
_LOCK = ".lock"
_NOT_OF_A_RUN = ("ckpt_path", "weights_only")
"""Keys that say what a command does; in a stored configuration they would undo an option before it."""


class RunDirectory:
    """Paths inside a run's folder, which need not exist.

    Attributes:
        environment: versions, hardware and commit.
        rounds: folder of the snapshots.
        metrics: table with one row per round.
        validation: table of what clients say of the model of each round, which they are sent in the next one.
        tensorboard: folder of the event files.
        checkpoint: the final global model as a Lightning checkpoint.
        summary: final figures.
        loggers: how loggers go on with what they have begun.
        partition: who holds what.
        confusion: table of the final global model's guesses on the test split.
        audit: what attacks on the run's uploads have found.
        ledgers: folder where clients that work here keep what they have spent of their privacy budgets.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config, self.environment = self.path / "config.yaml", self.path / "environment.json"
        self.metrics, self.validation = self.path / "metrics.csv", self.path / "validation.csv"
        self.rounds, self.tensorboard = self.path / "rounds", self.path / "tensorboard"
        self.checkpoint, self.summary = self.path / "global.ckpt", self.path / "summary.json"
        self.loggers = self.path / "loggers.json"
        self.partition, self.confusion = self.path / "partition.json", self.path / "confusion.csv"
        self.audit, self.ledgers = self.path / "audit.json", self.path / "privacy"
        self._claim: FileLock | None = None

    @property
    def _aside(self) -> Path:
        return self._place.with_name(f".{self._place.name}.new")

    @property
    def _place(self) -> Path:
        """Where the folder lies, if its path is a link."""
        return Path(os.path.realpath(self.path))

    def client_checkpoint(self, client: int) -> Path:
        """Return the place of a client's final model as a Lightning checkpoint, where there is no global one."""
        return self.path / "clients" / f"{client:02d}.ckpt"

    def check_name(self) -> None:
        """Refuse a name that no new folder can have."""
        if self.path.name in ("", ".."):
            raise MosaicError(f"--federation.run_dir: expected the name of a new folder, got {self.path}: choose one")
        if self.path.parts[0].startswith("~") or ("$" in str(self.path) and not self.path.exists()):
            raise MosaicError(
                "--federation.run_dir: expected a path without ~ and $, which shells alone understand, got "
                f"{self.path}: write the folder in full"
            )
        try:
            for path in (self.path, self._aside):
                with suppress(FileNotFoundError, NotADirectoryError):
                    path.lstat()
        except (OSError, ValueError) as error:
            raise MosaicError(
                f"--federation.run_dir: {self.path.name[:60]}... cannot be made a folder "
                f"({getattr(error, 'strerror', error)}): choose another"
            ) from error

    def claim(self) -> None:
        """Refuse a folder where another process writes; keep others out until this one closes it or ends.

        Without effect where the file system has no locks.
        """
        make_writable(self.path, "--federation.run_dir")
        taken = f"another process is at work in {self.path}: wait for it, or choose another name"
        self._claim = lock(self.path / _LOCK, f"--federation.run_dir: {taken}")

    def close(self) -> None:
        """Let other processes write here again."""
        if self._claim is not None:
            self._claim.release()
            self._claim = None

    def create(self, config: Mapping[str, Any], fill: Callable[[Path], None] = lambda _: None) -> None:
        """Make the folder with all that it begins with: whole, or not at all.

        It is written aside and renamed. What a killed process has left aside is cleared away.

        Args:
            config: the run's configuration.
            fill: writes more into a folder.

        Raises:
            MosaicError: something is there already, or no folder can be made there.
        """
        self.require_free()
        aside = RunDirectory(self._aside)
        made = [folder for folder in (aside.path, *aside.path.parents) if not folder.exists()]
        try:
            aside.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._no_folder(error) from error
        try:
            aside.claim()
            for left in aside.path.iterdir():
                if left.name != _LOCK:
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
            aside.complete(fill)
            aside.write_config(config)
            sync(aside.path)
            self._put(aside)
        except BaseException as error:
            aside.close()
            if not isinstance(error.__cause__, TimeoutError):  # or another process is at work in it
                shutil.rmtree(aside.path, ignore_errors=True)
            for folder in made[1:]:
                with suppress(OSError):  # somebody else uses it by now
                    folder.rmdir()
            raise

    def require_free(self) -> None:
        """Refuse a folder that is not empty."""
        try:
            empty = not self.path.exists() or not any(self.path.iterdir())
        except OSError as error:
            raise self._no_folder(error) from error
        if not empty:
            way_on = "go on with it with --ckpt_path auto" if self.config.is_file() else "move it away"
            if self.config.is_file() and not any(self.rounds.glob("[0-9]*")):
                way_on += ", or delete it, unless a run is at work there: it holds no snapshot"
            raise MosaicError(
                f"{self.path} exists and a run is never overwritten: choose another name with --federation.run_dir, or "
                f"{way_on}"
            )

    def _no_folder(self, error: OSError) -> MosaicError:
        return MosaicError(
            f"--federation.run_dir: {self.path} cannot be made a folder ({error.strerror}): choose another"
        )

    def _put(self, aside: "RunDirectory") -> None:
        """Rename a finished folder to this path, and keep its lock."""
        try:
            aside.path.rename(self._place)
        except OSError as error:
            self.require_free()  # which another process has put here meanwhile
            raise self._no_folder(error) from error
        self._claim, aside._claim = aside._claim, None
        sync(self._place.parent)

    def complete(self, fill: Callable[[Path], None] = lambda _: None) -> None:
        """Make what is missing or damaged of what a run begins with, except its configuration; ``fill`` writes more."""
        for folder in (self.rounds, self.tensorboard):
            if folder.is_file():
                raise MosaicError(f"{folder} is a file where a run has a folder: move it away")
            folder.mkdir(parents=True, exist_ok=True)
        if not is_whole(self.environment):
            write_whole(self.environment, f"{json.dumps(describe_environment(), indent=2)}\n".encode())
        fill(self.path)

    def remove_results(self) -> None:
        """Remove what a finished run leaves, as it goes on: final models, figures, and the audit of its uploads."""
        for file in (self.summary, self.checkpoint, self.confusion, self.audit):
            file.unlink(missing_ok=True)
        shutil.rmtree(self.client_checkpoint(0).parent, ignore_errors=True)

    def require(self) -> None:
        """Refuse a folder without a run."""
        if self.path.parent.name.startswith(DRY_RUN) and not self.path.exists():
            raise MosaicError("a dry run keeps nothing: run without fast_dev_run to have figures and a model")
        if not self.config.is_file():
            raise MosaicError(f"{self.path} holds no run (config.yaml is missing): expected a folder of mosaic fit")

    def read_config(self) -> dict[str, Any]:
        """Return the run's configuration.

        Raises:
            MosaicError: it is missing or damaged.
        """
        self.require()
        try:
            values = yaml.safe_load(self.config.read_text("utf-8"))
            if not isinstance(values, dict):
                raise ValueError("sections are missing")
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise self.damaged(error) from error
        return values

    def damaged(self, error: Exception) -> MosaicError:
        """Return what to say of a configuration that cannot be read."""
        return MosaicError(
            f"{self.config} is damaged ({printable(str(error))}): restore it from a copy, or start a new "
            "run with --federation.run_dir"
        )

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the configuration; a resumed run may have more rounds than it was started with."""
        kept = {key: value for key, value in config.items() if key not in _NOT_OF_A_RUN}
        write_whole(self.config, yaml.safe_dump(kept, sort_keys=False).encode())
