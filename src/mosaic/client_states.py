"""The state of every client; beyond a limit on disk and not in memory."""

import shutil
import tempfile
import weakref
from collections.abc import Iterator, MutableMapping
from itertools import count
from pathlib import Path

from mosaic.codec import decode, encode, size_in_bytes
from mosaic.messages import ClientState

HELD_BYTES = 64 * 2**20  # of all states together


class ClientStates(MutableMapping[int, ClientState]):
    """A mapping from clients to their states, of which there may be thousands while few are needed at a time.

    States beyond ``held_bytes`` lie in files of a temporary folder (``TMPDIR`` says where) and are read whenever they
    are asked for. A file goes as soon as neither this mapping nor a copy of it refers to it.
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
        self._kept.pop(client, None)
        size, held = size_in_bytes(state), sum(self._sizes.values()) - self._sizes.pop(client, 0)
        if held + size <= self._held_bytes:
            self._kept[client], self._sizes[client] = state, size
        else:
            self._folder = self._folder or _Folder()
            self._kept[client] = _OnDisk(state, self._folder)

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
        self._path.write_bytes(encode(state))
        weakref.finalize(self, self._path.unlink, missing_ok=True)

    def read(self) -> ClientState:
        return decode(self._path.read_bytes(), ClientState)
