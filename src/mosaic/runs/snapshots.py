"""Snapshots between rounds: written aside, synced, renamed; a run goes on from one bit for bit."""

import hashlib
import json
import logging
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from mosaic.client_states import ClientStates
from mosaic.codec import decode, encode
from mosaic.disk import sync, write_synced
from mosaic.errors import MosaicError
from mosaic.messages import ClientState
from mosaic.runs.books import Books
from mosaic.server.state import ServerState

log = logging.getLogger(__name__)
_SERVER = "server.safetensors"


@dataclass(frozen=True)
class Snapshot:
    """Everything that the next rounds depend on.

    Attributes:
        round: the last finished round.
        server: what the server keeps.
        clients: what clients keep.
        books: what the run has cost so far.
        stages: test accuracy of every stage observed so far.
        sizes: lengths of the run's append-only files.
        run: name of the run, by which clients on hosts of their own keep what they remember.
        booked: how often each client here has booked what its images cost, by the name of its folder.
    """

    round: int
    server: ServerState
    clients: ClientStates = field(default_factory=ClientStates)
    books: Books = field(default_factory=Books)
    stages: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    run: str = field(default_factory=lambda: uuid.uuid4().hex)
    booked: dict[str, int] = field(default_factory=dict)

    def stamp(self) -> str:
        """Describe the next round and the state before it; the texts of different states differ."""
        digest = hashlib.sha256(encode(self.server))
        for client, state in self.clients.items():
            digest.update(f"client {client}".encode() + encode(state))
        return f"round {self.round + 1} with state {digest.hexdigest()[:12]}"

    def write(self, rounds: Path, keep: int) -> Path:
        """Write this snapshot as ``rounds/NNNN`` and delete all but the last ``keep``."""
        target, aside = rounds / f"{self.round:04d}", rounds / f".{self.round:04d}.tmp"
        shutil.rmtree(aside, ignore_errors=True)
        try:
            self._write(aside)
            shutil.rmtree(target, ignore_errors=True)
            aside.rename(target)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        sync(rounds)
        drop_old(rounds, keep)
        return target

    def _write(self, folder: Path) -> None:
        """Write every file, and ``run.json`` with the checksums of all of them."""
        (folder / "clients").mkdir(parents=True)
        sums = {}
        states = ((f"clients/{client:04d}.safetensors", state) for client, state in self.clients.items())
        for name, value in chain([(_SERVER, self.server)], states):  # of clients one at a time
            data = encode(value)
            write_synced(folder / name, data)
            sums[name] = hashlib.sha256(data).hexdigest()
        facts = {"run": self.run, "round": self.round, "stages": self.stages, "sizes": self.sizes}
        facts |= {"ledger": asdict(self.books), "booked": self.booked}
        signed = {**facts, "files": sums}
        write_synced(folder / "run.json", json.dumps({**signed, "sha256": _digest(signed)}, indent=2).encode())
        sync(folder / "clients")
        sync(folder)

    @classmethod
    def read(cls, path: Path) -> "Snapshot":
        """Read a snapshot, and refuse one of which a file has changed."""
        try:
            facts = json.loads((path / "run.json").read_bytes())
            if not isinstance(facts, dict) or facts.pop("sha256") != _digest(facts):
                raise ValueError("run.json has changed since it was written")
            found = {str(file.relative_to(path)) for file in path.rglob("*.safetensors")}
            if found != facts["files"].keys():
                raise ValueError(f"expected {sorted(facts['files'])}, got {sorted(found)}")
            clients = ClientStates()
            for name in sorted(found - {_SERVER}):
                clients[int(Path(name).stem)] = decode(_checked(path / name, facts["files"][name]), ClientState)
            server = decode(_checked(path / _SERVER, facts["files"][_SERVER]), ServerState)
            books = Books(**facts["ledger"])
            return cls(
                facts["round"],
                server,
                clients,
                books,
                facts["stages"],
                {name: int(size) for name, size in dict(facts["sizes"]).items()},
                facts["run"],
                facts.get("booked", {}),  # 0.1.0 did not count
            )
        except OSError as error:
            raise MosaicError(f"{error.filename} cannot be read ({error.strerror}): {way_on_without(path)}") from error
        except (ValueError, KeyError, TypeError) as error:
            said = f"{error} is missing" if isinstance(error, KeyError) else error
            raise MosaicError(f"{path} is not a whole snapshot ({said}): {way_on_without(path)}") from error


def list_snapshots(rounds: Path) -> list[Path]:
    """Return the finished snapshots in the order of their rounds."""
    return sorted((path for path in rounds.glob("*") if path.name.isdecimal()), key=_number)


def drop_old(rounds: Path, keep: int) -> None:
    """Delete all snapshots but the last ones, and what a killed process has left half-written."""
    for left in rounds.glob(".*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    for old in list_snapshots(rounds)[:-keep]:
        aside = old.with_name(f".{old.name}.old.tmp")
        try:
            old.rename(aside)
        except OSError as error:
            log.warning("%s stays, since it cannot be moved (%s): delete it", old, error.strerror)
        shutil.rmtree(aside, ignore_errors=True)  # what stays is tried again after the next snapshot


def find_snapshot(ckpt_path: str | None, run_path: Path) -> Path | None:
    """Return the snapshot that ``--ckpt_path`` asks for, or ``None`` to start at round 1.

    Args:
        ckpt_path: nothing, ``auto`` (the last snapshot if there is one), ``last`` (it must exist), or a path of a
            snapshot or of a run.
        run_path: the run's folder.
    """
    if ckpt_path is None:
        return None
    own = list_snapshots(run_path / "rounds")
    if ckpt_path == "last" and not own:
        raise MosaicError(f"--ckpt_path last: {run_path} holds no snapshot: start with --ckpt_path auto or without")
    if ckpt_path in ("auto", "last"):
        return own[-1] if own else None
    path = Path(ckpt_path).absolute()  # its parents are the run's folders
    if (path / "run.json").is_file():
        return path
    if inside := list_snapshots(path / "rounds"):
        return inside[-1]
    raise MosaicError(
        f"--ckpt_path {ckpt_path}: expected auto, last, a run directory or one of its rounds/NNNN folders, got "
        f"{'a file' if path.is_file() else 'nothing of the kind'}: `mosaic test` and `predict` take global.ckpt, fit "
        "takes snapshots"
    )


def way_on_without(snapshot: Path) -> str:
    """Say how to go on with a run without one of its snapshots."""
    older = [path for path in list_snapshots(snapshot.parent) if int(path.name) < _number(snapshot)]
    if older:
        return f"delete {snapshot}, and --ckpt_path auto goes on from {older[-1]}"
    return f"no older one is left: delete {snapshot}, and --ckpt_path auto begins anew, or restore it from a copy"


def _number(snapshot: Path) -> int:
    return int(snapshot.name) if snapshot.name.isdecimal() else 0


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _checked(file: Path, sha256: str) -> bytes:
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ValueError(f"{file.name} has changed since it was written")
    return data
