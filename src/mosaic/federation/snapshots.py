"""Snapshots between rounds: written aside, synced, renamed; a run goes on from one bit for bit."""

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mosaic.codec import decode, encode
from mosaic.errors import MosaicError
from mosaic.federation.client_states import ClientStates
from mosaic.federation.ledger import Ledger
from mosaic.messages import ClientState
from mosaic.server.state import ServerState


@dataclass(frozen=True)
class Snapshot:
    """Everything that the rounds to come depend on.

    Attributes:
        round: the last finished round.
        server: what the server remembers.
        clients: what clients remember.
        ledger: the books so far.
        stages: test accuracy of every stage observed so far.
        sizes: lengths of the run's append-only files.
    """

    round: int
    server: ServerState
    clients: ClientStates = field(default_factory=ClientStates)
    ledger: Ledger = field(default_factory=Ledger)
    stages: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def stamp(self) -> str:
        """Say in a few words where rounds go on from, and with what: equal for equal states alone."""
        digest = hashlib.sha256(encode(self.server))
        for client, state in self.clients.items():
            digest.update(f"client {client}".encode() + encode(state))
        return f"round {self.round + 1} with state {digest.hexdigest()[:12]}"

    def write(self, rounds: Path, keep: int) -> Path:
        """Write this snapshot as ``rounds/NNNN`` and delete all but the last ``keep``."""
        target, aside = rounds / f"{self.round:04d}", rounds / f".{self.round:04d}.tmp"
        shutil.rmtree(aside, ignore_errors=True)
        (aside / "clients").mkdir(parents=True)
        _write(aside / "server.safetensors", encode(self.server))
        for client, state in self.clients.items():
            _write(aside / "clients" / f"{client:04d}.safetensors", encode(state))
        books: dict[str, Any] = {"ledger": asdict(self.ledger), "stages": self.stages, "sizes": self.sizes}
        _write(aside / "run.json", json.dumps({"round": self.round, **books}, indent=2).encode())
        _sync(aside / "clients")
        _sync(aside)
        shutil.rmtree(target, ignore_errors=True)
        aside.rename(target)
        _sync(rounds)
        for old in list_snapshots(rounds)[:-keep]:
            shutil.rmtree(old)
        return target

    @classmethod
    def read(cls, path: Path) -> "Snapshot":
        """Read a snapshot.

        Raises:
            MosaicError: it is missing, truncated or something else.
        """
        try:
            books = json.loads((path / "run.json").read_text())
            server = decode((path / "server.safetensors").read_bytes(), ServerState)
            clients = ClientStates()
            for file in sorted((path / "clients").glob("*.safetensors")):
                clients[int(file.stem)] = decode(file.read_bytes(), ClientState)
            ledger = Ledger(**books["ledger"])
            return cls(books["round"], server, clients, ledger, books["stages"], books["sizes"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MosaicError(
                f"{path} is not a whole snapshot ({error}): delete it and go on from the one before with "
                "--ckpt_path auto, or give the path of another with --ckpt_path"
            ) from error


def list_snapshots(rounds: Path) -> list[Path]:
    """Return the finished snapshots in the order of their rounds."""
    return sorted((path for path in rounds.glob("*") if path.name.isdecimal()), key=lambda path: int(path.name))


def find_snapshot(ckpt_path: str | None, run_path: Path) -> Path | None:
    """Resolve what ``--ckpt_path`` asks for.

    Args:
        ckpt_path: nothing, ``auto`` (the last snapshot if there is one), ``last`` (it must exist), or a path of a
            snapshot or of a run.
        run_path: the run's folder.

    Returns:
        The snapshot's folder, or ``None`` to start anew.

    Raises:
        MosaicError: there is no such snapshot.
    """
    if ckpt_path is None:
        return None
    own = list_snapshots(run_path / "rounds")
    if ckpt_path == "auto":
        return own[-1] if own else None
    if ckpt_path == "last":
        if not own:
            raise MosaicError(f"--ckpt_path last: {run_path} holds no snapshot: start with --ckpt_path auto or without")
        return own[-1]
    path = Path(ckpt_path)
    if (path / "run.json").is_file():
        return path
    inside = list_snapshots(path / "rounds")
    if inside:
        return inside[-1]
    raise MosaicError(
        f"--ckpt_path {ckpt_path}: expected auto, last, a run directory or one of its rounds/NNNN folders, got "
        f"{'a file' if path.is_file() else 'nothing of the kind'}: `mosaic test` and `predict` take global.ckpt, fit "
        "takes snapshots"
    )


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
