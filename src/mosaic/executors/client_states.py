"""What clients remember between requests; where that is much, on disk and not in memory."""

import shutil
import tempfile
import weakref
from collections.abc import Iterator, MutableMapping
from pathlib import Path

from mosaic.codec import decode, encode, size_in_bytes
from mosaic.messages import ClientState

HELD_BYTES = 64 * 2**20
"""Of all states together so much stays in memory; what comes later is written to a file."""


class ClientStates(MutableMapping[int, ClientState]):
    """A mapping from clients to what they remember.

    A thousand clients may each keep a model of their own, while only those at work need theirs. States beyond
    ``held_bytes`` therefore lie in files of a temporary folder (``TMPDIR`` says where) and are read whenever they are
    asked for. A file goes as soon as neither this mapping nor a copy of it refers to it.

    Args:
        held_bytes: what may stay in memory.
    """

    def __init__(self, held_bytes: int = HELD_BYTES) -> None:
        self._held_bytes = held_bytes
        self._kept: dict[int, _InMemory | _OnDisk] = {}
        self._folder: _Folder | None = None

    def __getitem__(self, client: int) -> ClientState:
        return self._kept[client].read()

    def __setitem__(self, client: int, state: ClientState) -> None:
        self._kept.pop(client, None)
        held = sum(kept.held for kept in self._kept.values())
        size = size_in_bytes(state)
        self._kept[client] = _InMemory(state, size) if held + size <= self._held_bytes else self._on_disk(state)

    def __delitem__(self, client: int) -> None:
        del self._kept[client]

    def __contains__(self, client: object) -> bool:
        return client in self._kept  # the inherited one would read the file

    def __iter__(self) -> Iterator[int]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def copy(self) -> "ClientStates":
        """Return a mapping that later changes of this one leave as it is; nothing is read or written."""
        twin = ClientStates(self._held_bytes)
        twin._kept = dict(self._kept)
        return twin

    def _on_disk(self, state: ClientState) -> "_OnDisk":
        if self._folder is None:
            self._folder = _Folder()
        return _OnDisk(state, self._folder)


class _InMemory:
    """A state as it is."""

    def __init__(self, state: ClientState, size: int) -> None:
        self._state, self.held = state, size

    def read(self) -> ClientState:
        return self._state


class _Folder:
    """A temporary folder that goes with the last reference to it."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="mosaic-clients-"))
        self._written = 0
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)

    def new_file(self) -> Path:
        self._written += 1
        return self.path / f"{self._written}.safetensors"


class _OnDisk:
    """A state in a file of its own, which is never written twice and goes with the last reference."""

    held = 0

    def __init__(self, state: ClientState, folder: _Folder) -> None:
        self._folder, self._path = folder, folder.new_file()
        self._path.write_bytes(encode(state))
        weakref.finalize(self, self._path.unlink, missing_ok=True)

    def read(self) -> ClientState:
        return decode(self._path.read_bytes(), ClientState)
