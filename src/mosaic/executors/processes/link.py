"""TCP connections between rank 0 and the other processes of a world, apart from PyTorch's process groups."""

import logging
import os
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch

from mosaic.errors import MosaicError
from mosaic.executors.base import WorkerLostError
from mosaic.executors.processes.environment import World
from mosaic.training.signals import leave_if_asked_unless_distributed

log = logging.getLogger(__name__)
MEETING_SECONDS = 600.0  # so long processes wait for each other at the start; data sets are loaded by then
_WELCOME, _SENT_AWAY = b"+", b"-"
_NAME, _DIGITS = b"mosaic ", 6
_LOOPBACK = "127.0.0.1"
_dist: Any = torch.distributed  # its type stubs lack what is used here


def open_port(port: int = 0, local: bool = True) -> socket.socket:
    """Listen on a port, a free one if none is named; if it is local, only this machine can reach it."""
    if local:
        return socket.create_server((_LOOPBACK, port), backlog=1024)
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    return socket.create_server(("", port), family=family, backlog=1024, dualstack_ipv6=both)


def accept_all(
    world: World, listener: socket.socket, run: str, check: Callable[[], None], ranks: Iterable[int] | None = None
) -> dict[int, Connection]:
    """Wait in rank 0 until every other process of the run, or these, have come; return the connections by rank.

    ``run`` tells it from others, see :func:`connect`. Processes of another run are sent away. ``check`` is called now
    and then, and raises to give up. The listener is closed.
    """
    found, missing = {}, {_hello(run, rank): rank for rank in ranks or range(1, world.size)}
    end = time.monotonic() + MEETING_SECONDS
    listener.settimeout(0.1)
    with listener:
        while missing:
            leave_if_asked_unless_distributed()
            check()
            if time.monotonic() > end:
                raise WorkerLostError(f"processes {[*missing.values()]} did not come within {MEETING_SECONDS:g} s")
            with suppress(OSError):  # nobody has come, or a stranger who says something else
                accepted, _ = listener.accept()
                with accepted:
                    accepted.settimeout(10)  # for what a process sends first
                    said = accepted.recv(len(_hello(run, 0)))
                    if rank := missing.get(said):
                        accepted.sendall(_WELCOME)
                        found[rank] = _connection(accepted)
                        del missing[said]
                    elif said.startswith(_NAME) and not said.startswith(_hello(run, 0)[:-_DIGITS]):
                        log.warning("a process of another run, or with another configuration or version, is sent away")
                        accepted.sendall(_SENT_AWAY)
    return found


def listen(world: World) -> socket.socket:
    """Listen where the other processes of a launched world look for rank 0."""
    port = world.port if world.meeting_place == "own" else 0
    try:
        listener = open_port(port, local=world.address in (_LOOPBACK, "localhost"))
        if world.meeting_place == "agent":
            _agents_store(world).set("port", str(listener.getsockname()[1]))
    except (OSError, RuntimeError) as error:
        raise _no_meeting(world, error) from error
    return listener


def connect(world: World, run: str) -> Connection:
    """Connect to rank 0, which may still load its data.

    Args:
        world: this process.
        run: 16 letters that all processes of the run have in common, and those of others do not.

    Raises:
        MosaicError: rank 0 belongs to another run.
        WorkerLostError: nobody is there.
    """
    end = time.monotonic() + MEETING_SECONDS
    while True:
        try:
            port = world.port if world.meeting_place == "own" else int(_agents_store(world).get("port"))
            with socket.create_connection((world.address, port), timeout=10) as connected:
                if connected.getsockname() != connected.getpeername():  # a free port may be given to this very socket
                    connected.sendall(_hello(run, world.rank))
                    connected.settimeout(MEETING_SECONDS)  # rank 0 may wait for a stranger to speak
                    answer = connected.recv(1)
                    if answer == _SENT_AWAY:
                        raise _other_run(world)
                    if answer == _WELCOME:
                        return _connection(connected)
        except (OSError, RuntimeError) as error:
            if time.monotonic() > end:
                raise _no_meeting(world, error) from error
        time.sleep(0.1)


def _hello(run: str, rank: int) -> bytes:
    return _NAME + f"{run:16.16} {rank:{_DIGITS}}".encode()


def _connection(connected: socket.socket) -> Connection:
    connected.settimeout(None)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return Connection(connected.detach())


def _agents_store(world: World) -> Any:
    """Return the store that torchrun's agent keeps at the address of rank 0, a new one for every attempt."""
    store = _dist.TCPStore(world.address, world.port, timeout=timedelta(0, MEETING_SECONDS), wait_for_workers=False)
    return _dist.PrefixStore(f"mosaic/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def _no_meeting(world: World, error: Exception) -> WorkerLostError:
    return WorkerLostError(
        f"process {world.rank} of {world.size} expected to {'reach' if world.rank else 'open'} {world.address}:"
        f"{world.port}, where processes meet, got: {error}: set MASTER_ADDR and MASTER_PORT to a free port of rank 0"
    )


def _other_run(world: World) -> MosaicError:
    return MosaicError(
        f"executor: expected rank 0 of this run at {world.address}:{world.port}, got that of another one, or one with "
        "another configuration or version: set MASTER_PORT to a port of its own for each run on a machine, and install "
        "the same version everywhere"
    )
