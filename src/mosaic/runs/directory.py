"""The folder of one run: created once, never overwritten, continued only by the same configuration."""

import json
import logging
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock, Timeout

from mosaic.disk import sync, write_whole
from mosaic.errors import MosaicError
from mosaic.federation.schedule import Schedule
from mosaic.runs.snapshots import Snapshot, way_on_without

log = logging.getLogger(__name__)
FREE_TO_CHANGE = (
    "ckpt_path",
    "weights_only",
    "executor",
    "data.device_cache",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.logger",
    "federation.run_dir",
    "federation.snapshot_every",
    "federation.keep_snapshots",
    "federation.max_failed",
    "federation.schedule.collaborative_rounds",
    "federation.schedule.fine_tune_rounds",
    "federation.schedule.distill_rounds",
)
"""Keys that may differ between stop and resume; rounds may be added, as long as finished ones stay as they were."""


_LOCK = ".lock"


class RunDirectory:
    """Paths inside a run's folder.

    Args:
        path: of the folder, which need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._claim: FileLock | None = None

    @property
    def config(self) -> Path:
        """The run's configuration."""
        return self.path / "config.yaml"

    @property
    def environment(self) -> Path:
        """Versions, hardware and commit."""
        return self.path / "environment.json"

    @property
    def rounds(self) -> Path:
        """Folder of the snapshots."""
        return self.path / "rounds"

    @property
    def metrics(self) -> Path:
        """One row per round."""
        return self.path / "metrics.csv"

    @property
    def validation(self) -> Path:
        """What clients say of the model of each round, which they are sent in the next one."""
        return self.path / "validation.csv"

    @property
    def tensorboard(self) -> Path:
        """Folder of the event files."""
        return self.path / "tensorboard"

    @property
    def checkpoint(self) -> Path:
        """The final global model as a Lightning checkpoint."""
        return self.path / "global.ckpt"

    def client_checkpoint(self, client: int) -> Path:
        """Return the place of a client's final model as a Lightning checkpoint, where there is no global one."""
        return self.path / "clients" / f"{client:02d}.ckpt"

    @property
    def summary(self) -> Path:
        """Final figures."""
        return self.path / "summary.json"

    @property
    def _aside(self) -> Path:
        """Where the folder is made."""
        return self.path.with_name(f".{self.path.name}.new")

    def check_name(self) -> None:
        """Refuse a name that no folder can have.

        Raises:
            MosaicError: the system says so.
        """
        for path in (self.path, self._aside):
            try:
                path.lstat()
            except (FileNotFoundError, NotADirectoryError):
                pass
            except (OSError, ValueError) as error:
                raise MosaicError(
                    f"--federation.run_dir: {self.path.name[:60]}... cannot be made a folder "
                    f"({getattr(error, 'strerror', error)}): choose another"
                ) from error

    def claim(self) -> None:
        """Let no other process write here until this one closes the folder or ends, where the file system can.

        Raises:
            MosaicError: another process has, or the folder cannot be written to.
        """
        try:
            (self.path / _LOCK).touch()
        except OSError as error:
            raise MosaicError(
                f"--federation.run_dir: {self.path} cannot be written to ({error.strerror}): choose another"
            ) from error
        claim = FileLock(self.path / _LOCK)
        try:
            claim.acquire(blocking=False)
        except Timeout as error:
            raise MosaicError(
                f"--federation.run_dir: another process is at work in {self.path}: wait for it, or choose another name"
            ) from error
        except (OSError, NotImplementedError):  # some network file systems have no locks
            log.debug("%s cannot be locked", self.path)
        else:
            self._claim = claim

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
        aside.claim()
        try:
            for left in aside.path.iterdir():
                if left.name != _LOCK:
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
            aside.complete(fill)
            aside.write_config(config)
            sync(aside.path)
            self._put(aside)
        except BaseException:
            aside.close()
            shutil.rmtree(aside.path, ignore_errors=True)
            for folder in made[1:]:
                with suppress(OSError):  # somebody else uses it by now
                    folder.rmdir()
            raise

    def require_free(self) -> None:
        """Refuse to begin where something is.

        Raises:
            MosaicError: something is.
        """
        try:
            empty = not self.path.exists() or not any(self.path.iterdir())
        except OSError as error:
            raise self._no_folder(error) from error
        if not empty:
            way_on = "go on with it with --ckpt_path auto" if self.config.is_file() else "move it away"
            raise MosaicError(
                f"{self.path} exists and a run is never overwritten: choose another name with --federation.run_dir, or "
                f"{way_on}"
            )

    def _no_folder(self, error: OSError) -> MosaicError:
        return MosaicError(
            f"--federation.run_dir: {self.path} cannot be made a folder ({error.strerror}): choose another"
        )

    def _put(self, aside: "RunDirectory") -> None:
        """Let a whole folder take this place, and its claim hold here."""
        try:
            aside.path.rename(self.path)
        except OSError as error:
            self.require_free()  # which another process has put here meanwhile
            raise self._no_folder(error) from error
        self._claim, aside._claim = aside._claim, None
        sync(self.path.parent)

    def complete(self, fill: Callable[[Path], None] = lambda _: None) -> None:
        """Make what is missing of what a run begins with, its configuration aside.

        Args:
            fill: writes more into a folder, where it is not there yet.
        """
        for folder in (self.rounds, self.tensorboard):
            folder.mkdir(parents=True, exist_ok=True)
        if not self.environment.is_file():
            write_whole(self.environment, f"{json.dumps(describe_environment(), indent=2)}\n".encode())
        fill(self.path)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the configuration; a resumed run may have more rounds than it was started with."""
        write_whole(self.config, yaml.safe_dump(dict(config), sort_keys=False).encode())

    def _read_config(self, sections: Collection[str]) -> dict[str, Any]:
        """Read the configuration.

        Args:
            sections: that it must have.

        Raises:
            MosaicError: it is missing or damaged.
        """
        if not self.config.is_file():
            raise MosaicError(f"{self.path} holds no run ({self.config.name} is missing): check --ckpt_path")
        try:
            values = yaml.safe_load(self.config.read_text())
            if not isinstance(values, dict) or not values.keys() >= set(sections):
                raise ValueError("sections are missing")
            Schedule(**values["federation"]["schedule"])
        except (OSError, ValueError, TypeError, LookupError, yaml.YAMLError, MosaicError) as error:
            raise MosaicError(
                f"{self.config} is damaged ({' '.join(str(error).split())[:120]}): restore it from a copy, or start a "
                "new run with --federation.run_dir"
            ) from error
        return values

    def check_same(
        self, config: Mapping[str, Any], snapshot: Snapshot, num_clients: int, sensitive_to: Collection[str]
    ) -> None:
        """Compare a configuration with the one that the run was started with.

        Args:
            config: the present one.
            snapshot: where the run stopped.
            num_clients: N.
            sensitive_to: see :class:`~mosaic.algorithms.base.Algorithm`.

        Raises:
            MosaicError: a key differs that must not, or the folder holds no run.
        """
        before, now = self._read_config(config.keys()), dict(config)
        changed = sorted(
            key
            for key, value in _differences(before, now)
            if not any(key == free or key.startswith(f"{free}.") for free in FREE_TO_CHANGE)
        )
        if not _same_past(before, now, snapshot, num_clients, sensitive_to):
            advice = "; say explicitly which distill_rounds there are" if "distils" in sensitive_to else ""
            changed.append(f"federation.schedule (rounds 1..{snapshot.round} would have been other ones{advice})")
        if changed:
            raise MosaicError(
                f"{self.path} was started with another configuration; changed: {', '.join(changed)}: "
                "take these back, move the folder away, or start a new run with --federation.run_dir"
            )


def check_sizes(root: Path, sizes: Mapping[str, int], snapshot: Path) -> None:
    """Refuse append-only files that have lost what a snapshot counts.

    Args:
        root: the run's folder.
        sizes: length in bytes by path relative to ``root``, as the snapshot has them.
        snapshot: its folder.

    Raises:
        MosaicError: a file is missing or shorter.
    """
    present = append_only_sizes(root)
    for name, size in sizes.items():
        if (found := present.get(name, 0)) < size:
            raise MosaicError(
                f"{root / name} holds {found} bytes where {snapshot} counts {size}: restore it from a copy, or "
                f"{way_on_without(snapshot)}"
            )


def cut_back(root: Path, sizes: Mapping[str, int]) -> None:
    """Return append-only files to the lengths that they had at a snapshot.

    Args:
        root: the run's folder.
        sizes: length in bytes by path relative to ``root``; such files that are not named are removed.
    """
    for name, present in append_only_sizes(root).items():
        if name in sizes:
            os.truncate(root / name, min(present, sizes[name]))
        else:
            (root / name).unlink()


def append_only_sizes(root: Path) -> dict[str, int]:
    """Return the present length in bytes of tables and event files, by path relative to ``root``."""
    return {str(file.relative_to(root)): file.stat().st_size for file in _append_only(root)}


def sync_append_only(root: Path) -> None:
    """Bring tables and event files to disk, before a snapshot counts their bytes."""
    for file in _append_only(root):
        sync(file)


def _append_only(root: Path) -> list[Path]:
    files = [root / "metrics.csv", root / "validation.csv", *sorted((root / "tensorboard").glob("events.*"))]
    return [file for file in files if file.exists()]


def copy_append_only(source: Path, target: Path, sizes: Mapping[str, int]) -> None:
    """Copy tables and event files of one run into another's folder."""
    for name in sizes:
        shutil.copyfile(source / name, target / name)


def describe_environment() -> dict[str, Any]:
    """Return versions, hardware and the commit of the working directory, nothing for what cannot be found out."""
    packages = {}
    for name in (
        "mosaic",
        "lightning",
        "torch",
        "torchvision",
        "torchmetrics",
        "numpy",
        "scikit-learn",
        "flwr-datasets",
    ):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "not installed"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpu_count": os.cpu_count(),
        "gpus": gpus,
        "packages": packages,
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """Return the commit of the working directory; none outside a repository, or where there is no git."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def _differences(before: Any, now: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted({*before, *now})
        nested = [_differences(before.get(key), now.get(key), f"{prefix}{key}.") for key in keys]
        return [difference for differences in nested for difference in differences]
    return [] if before == now else [(prefix.removesuffix("."), now)]


def _same_past(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    snapshot: Snapshot,
    num_clients: int,
    sensitive_to: Collection[str],
) -> bool:
    """Whether the rounds up to a snapshot would be planned as they were, in what the algorithm reads of a plan."""
    old, new = (Schedule(**config["federation"]["schedule"]) for config in (before, now))

    def past(schedule: Schedule) -> list[tuple[Any, ...]]:
        plans = [schedule.plan(r, num_clients, seed=0) for r in range(1, snapshot.round + 1)]
        read = sorted({"clients", "steps", "epochs", "learning_rate", *sensitive_to})
        return [tuple(getattr(plan, name) for name in read) for plan in plans]

    return new.rounds >= snapshot.round and past(old) == past(new)
