"""Bytes between the processes of one world. No process group is set up, so phases know nothing of the others."""

import socket
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch

from mosaic.errors import MosaicError
from mosaic.executors.processes.environment import World

_dist: Any = torch.distributed  # its type stubs lack half of what is used here
MEETING_TIME = timedelta(minutes=10)
"""How long processes wait for each other at the start; data sets are loaded by then."""
_FOREVER = timedelta(days=30)
"""How long one waits for a message: the others train, or the server does. Who is gone is noticed at once."""
_SOON = timedelta(minutes=1)
"""How long a process tries to reach rank 0 on its own machine, which listens before it starts others."""
_MOMENT = timedelta(milliseconds=50)
_LOOPBACK = "127.0.0.1"


class LinkBrokenError(MosaicError):
    """The process at the other end is gone."""

    exit_code = 1


class Link:
    """Carries bytes between any two processes of a world.

    Attributes:
        world: who this process is.

    Args:
        world: who this process is.
        store: where the processes leave their addresses.
        check: is called now and then while rank 0 waits for the others; it raises to give up.
    """

    def __init__(self, world: World, store: Any, check: Callable[[], None] = lambda: None) -> None:
        store.set(f"here/{world.rank}", "yes")
        if world.rank == 0:
            _wait_for(store, world.size, check)
        self.world, self._store = world, store  # the store of rank 0 lives in its process
        self._group: Any = _group(store, world)

    def send(self, data: bytes, rank: int) -> None:
        """Send bytes, at least one, to a process.

        Raises:
            LinkBrokenError: it is gone.
        """
        self._carry(self._group.send, torch.tensor([len(data)]), rank)
        self._carry(self._group.send, torch.frombuffer(bytearray(data), dtype=torch.uint8), rank)

    def receive(self, rank: int) -> bytes:
        """Wait for bytes from a process.

        Raises:
            LinkBrokenError: it is gone.
        """
        length = torch.zeros(1, dtype=torch.long)
        self._carry(self._group.recv, length, rank)
        data = torch.empty(int(length), dtype=torch.uint8)
        self._carry(self._group.recv, data, rank)
        return data.numpy().tobytes()

    def _carry(self, operation: Callable[..., Any], tensor: torch.Tensor, rank: int) -> None:
        try:
            operation([tensor], rank, 0).wait(_FOREVER)
        except RuntimeError as error:
            raise LinkBrokenError(f"process {rank} is gone") from error


def is_local(world: World) -> bool:
    """Whether all processes of a world run on this machine and need no network."""
    return world.address in (_LOOPBACK, "localhost")


def open_port(port: int = 0) -> socket.socket:
    """Listen on a port, a free one if none is named, that only this machine can reach."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((_LOOPBACK, port))
    listener.listen(1024)
    return listener


def make_store(world: World, listener: socket.socket | None = None) -> Any:
    """Meet at the address that everybody was told.

    Args:
        world: who this process is.
        listener: where rank 0 listens already; it is taken over.

    Raises:
        LinkBrokenError: nobody answers there, or the port is taken.
    """
    opens = world.rank == 0 and world.meeting_place == "own"
    if opens and is_local(world) and listener is None:
        listener = open_port(world.port)
    patience = _SOON if is_local(world) else MEETING_TIME
    try:
        store = _dist.TCPStore(
            world.address,
            world.port,
            is_master=opens,
            timeout=patience,
            wait_for_workers=False,
            master_listen_fd=None if listener is None else listener.detach(),
            use_libuv=listener is None,  # which takes no socket that listens already (PyTorch 2.7)
        )
    except RuntimeError as error:
        raise LinkBrokenError(
            f"process {world.rank} of {world.size} cannot {'open' if opens else 'reach'} {world.address}:{world.port} "
            f"within {patience}, where processes meet: set MASTER_ADDR and MASTER_PORT to a free port of rank 0"
        ) from error
    store.set_timeout(MEETING_TIME)
    return _dist.PrefixStore("mosaic", store)


def _wait_for(store: Any, size: int, check: Callable[[], None]) -> None:
    """Wait until all have come.

    Raises:
        LinkBrokenError: some do not.
    """
    for rank in range(size):
        for _ in range(MEETING_TIME // _MOMENT):
            if store.check([f"here/{rank}"]):
                break
            check()
            time.sleep(_MOMENT.total_seconds())
        else:
            raise LinkBrokenError(f"process {rank} of {size} did not come within {MEETING_TIME}")


def _group(store: Any, world: World) -> Any:
    """Connect every process with every other one; on one machine through its own address alone."""
    maker = _dist.ProcessGroupGloo
    if not is_local(world):
        return maker(store, world.rank, world.size, MEETING_TIME)
    options = maker._Options()
    options._devices = [maker.create_device(hostname=_LOOPBACK)]
    options._timeout = MEETING_TIME
    return maker(store, world.rank, world.size, options)
