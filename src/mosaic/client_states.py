"""The state of every client; beyond a limit on disk and not in memory."""

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from mosaic.codec import decode, encode, size_in_bytes
from mosaic.disk import DiskError
from mosaic.messages import ClientState

HELD_BYTES = 64 * 2**20  # of all states together


class ClientStates(MutableMapping[int, ClientState]):
    """A mapping from clients to their states, of which there may be thousands while few are needed at a time.

    States beyond ``held_bytes`` lie in files of a temporary folder (``TMPDIR`` says where) and are read whenever they
    are asked for. A file goes as soon as neither this mapping nor a copy of it refers to it.

    Raises:
        DiskError: such a file cannot be written, and the state before stays; or it cannot be read.
    """

    def __init__(self, held_bytes: int = HELD_BYTES) -> None:
        self._held_bytes = held_bytes
        self._kept: dict[int, ClientState | _OnDisk] = {}
        self._sizes: dict[int, int] = {}
        self._folder: _Folder | None = None

    def __getitem__(self, client: int) -> ClientState:
        kept = self._kept[client]
        return kept.read() if isinstance(kept, _OnDisk) else kept

    def __setitem__(self, client: int, state: ClientState) -> None:
        size, held = size_in_bytes(state), sum(self._sizes.values()) - self._sizes.get(client, 0)
        kept: ClientState | _OnDisk = state
        if held + size > self._held_bytes:
            self._folder = self._folder or _Folder()
            kept = _OnDisk(state, self._folder)  # first, since the old state is lost otherwise if the disk is full
        if client in self:
            del self[client]
        self._kept[client] = kept
        if kept is state:
            self._sizes[client] = size

    def __delitem__(self, client: int) -> None:
        del self._kept[client]
        self._sizes.pop(client, None)

    def __contains__(self, client: object) -> bool:
        return client in self._kept  # the inherited one would read the file

    def __iter__(self) -> Iterator[int]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def copy(self) -> "ClientStates":
        """Return a mapping that later changes of this one leave as it is; nothing is read or written."""
        twin = ClientStates(self._held_bytes)
        twin._kept, twin._sizes = dict(self._kept), dict(self._sizes)
        return twin


class _Folder:
    """A temporary folder that goes with the last reference to it."""

    def __init__(self) -> None:
        self.path, self.numbers = Path(tempfile.mkdtemp(prefix="mosaic-clients-")), count(1)
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


class _OnDisk:
    """A state in a file of its own, which is never written twice and goes with the last reference."""

    def __init__(self, state: ClientState, folder: _Folder) -> None:
        self._folder, self._path = folder, folder.path / f"{next(folder.numbers)}.safetensors"
        weakref.finalize(self, self._path.unlink, missing_ok=True)
        with _told():
            self._path.write_bytes(encode(state))

    def read(self) -> ClientState:
        with _told():
            return decode(self._path.read_bytes(), ClientState)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DiskError(
            f"{error.filename or tempfile.gettempdir()}: what clients keep cannot be written or read there "
            f"({os.strerror(error.errno or 0)}): see to its disk, or let TMPDIR name another; --ckpt_path auto then "
            "goes on from the last snapshot, if there is one"
        ) from error
