"""The resident process of one client: it alone reads the client's images, and answers mosaic's messages on a socket."""

import grp
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from mosaic.client.worker import Worker
from mosaic.codec import decode, encode
from mosaic.data.pixels import pixel_sums
from mosaic.data.remote import RemoteData, Statistics
from mosaic.deployment.memory import Memory
from mosaic.disk import DiskError, make_writable, naming_disk
from mosaic.errors import MosaicError
from mosaic.executors.base import answer, failed
from mosaic.executors.remote.wire import LARGEST_HEADER, Asked, Introduce, Introduction
from mosaic.messages import Declined, EvaluateRequest, Failed, Reply, Request
from mosaic.relay.frames import receive_frame, send_frame
from mosaic.training.phases import many_phases
from mosaic.training.signals import leave_if_asked

log = logging.getLogger(__name__)
MOST_BYTES = 2**33
"""Of one request."""
_NAME, _MOST_ROUNDS = re.compile(r"[0-9a-f]{32}"), 10**9 - 1
_BETWEEN_SIGNALS, _SILENCE, _LONGEST = 0.5, 60.0, 120.0
"""Seconds: between two looks for a signal, without a byte of a request, and for a whole one."""


class Resident:
    """Answers what a server may ask of one client.

    Args:
        data: with the images of the client.
        agreement: of its configuration.
        make_worker: makes the worker, given mean and standard deviation of the pixels per channel.
        folder: where it remembers runs.
        keep: rounds of a run that it remembers.
        judging: whether it judges models; otherwise its counts of right answers per class stay here.
        private: whether it has a privacy budget, so that an introduction tells nothing of its images.
        see: shown every request that was answered, and the reply, here on the client.
    """

    def __init__(
        self,
        data: RemoteData,
        agreement: str,
        make_worker: Callable[[Statistics], Worker],
        folder: Path,
        keep: int,
        judging: bool,
        private: bool = False,
        see: Callable[[Request, Reply], None] | None = None,
    ) -> None:
        assert data.own_client is not None
        self._data, self.client, self._agreement = data, data.own_client, agreement
        self._make_worker, self._folder, self._keep = make_worker, folder, keep
        self._judging, self._private, self._see = judging, private, see
        self._given = data.statistics
        self._worker: tuple[Statistics, Worker] | None = None

    def handle(self, data: bytes) -> bytes:
        """Answer one encoded message.

        Raises:
            ValueError: it is none that a server sends.
        """
        asked = decode(data, Asked, LARGEST_HEADER)
        match asked.message:
            case Introduce(wants_sums=wants_sums):
                unknown = self._given is None and asked.agreement == self._agreement
                return encode(self._introduce(wants_sums and unknown))
            case message if isinstance(message, Request):
                self._check(asked)
                started = time.perf_counter()
                reply = self._reply(asked)
                kinds = type(message).__name__, type(reply).__name__
                log.info("round %d: %s -> %s, %.1f s", message.round, *kinds, time.perf_counter() - started)
                return encode(reply)
        raise ValueError(f"expected a request, got {type(asked.message).__name__}")

    def _introduce(self, wants_sums: bool) -> Introduction:
        if self._private:
            nothing = torch.zeros(0, dtype=torch.double)
            return Introduction(self.client, self._agreement, torch.ones_like(self._data.class_counts[0]), nothing)
        images = self._data.images.train
        own = torch.from_numpy(self._data.splits[self.client].train)
        sums = pixel_sums(images, own) if wants_sums else torch.zeros(0, dtype=torch.double)
        return Introduction(self.client, self._agreement, self._data.class_counts[self.client], sums)

    def _check(self, asked: Asked[Request]) -> None:
        """Refuse what cannot come from an honest server, before anything is made of it."""
        if not _NAME.fullmatch(asked.run) or not _NAME.fullmatch(asked.session):
            raise ValueError("expected names of run and session of 32 hexadecimal digits")
        if not 1 <= asked.message.round <= _MOST_ROUNDS:
            raise ValueError(f"expected a round of at least 1, got {asked.message.round}")

    def _reply(self, asked: Asked[Request]) -> Reply:
        request = asked.message
        if request.client != self.client:
            return Failed(self.client, f"it was taken for client {request.client}")
        if asked.agreement != self._agreement:
            return Failed(self.client, "it runs another configuration or version of mosaic than the server")
        if not (self._judging or self._private) and (
            isinstance(request, EvaluateRequest) or getattr(request, "judge", False)
        ):
            return Declined(self.client, "it judges no models (federation.judging)")
        if not asked.mean:
            return Failed(self.client, "it was not told mean and standard deviation of the pixels")
        if self._given not in (None, (asked.mean, asked.std)):
            return Failed(self.client, "it was told other numbers than its data.mean and data.std")
        memory = Memory(self._folder, asked.run, self._keep)
        worker = self._worker_for((asked.mean, asked.std))
        try:
            with naming_disk(self._folder):
                if not memory.claim(f"client {self.client}, images {self.images}", asked.after):
                    return Failed(self.client, "its folder remembers this run of another client, or of other images")
                memory.go_back(asked)
                reply = self._remembered(memory, request, worker)
        except DiskError as error:
            log.error("round %d: %s", request.round, error)
            return Failed(self.client, "its disk fails: its log says more")
        except MosaicError as error:
            log.error("round %d: %s", request.round, error)
            return Failed(self.client, "what it remembers of this run is lost or damaged: its log says more")
        if self._see is not None:
            self._see(request, reply)
        return reply

    @staticmethod
    def _remembered(memory: Memory, request: Request, worker: Worker) -> Reply:
        """Return the reply that was given before, or compute one and remember it."""
        if (reply := memory.recall(request)) is not None:
            log.info("round %d: the next reply was given before", request.round)
            return reply
        found = answer(worker, request, memory.state(request))
        try:
            memory.remember(request, found)
        except TypeError as error:  # the client's code may return anything
            return failed(request.client, error)
        return found.message

    @property
    def images(self) -> str:
        """A fingerprint of the client's images."""
        return self._data.fingerprint

    def _worker_for(self, statistics: Statistics) -> Worker:
        if self._worker is None or self._worker[0] != statistics:
            self._worker = statistics, self._make_worker(statistics)
        return self._worker[1]


def serve(resident: Resident, listener: socket.socket) -> None:
    """Answer connections to a socket, one message each, until a signal ends this process."""
    with many_phases():
        log.info("client %d listens at %s", resident.client, listener.getsockname())
        while True:
            leave_if_asked()
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            with connection:
                try:
                    asked = receive_frame(connection, MOST_BYTES, _SILENCE, _LONGEST)
                    send_frame(connection, resident.handle(asked))
                except Exception as error:  # whatever a stranger has sent, the next one is answered
                    log.warning("a message gets no answer: %s", error)


@contextmanager
def listening(path: Path, group: str | None) -> Iterator[socket.socket]:
    """Listen at a Unix socket.

    Args:
        path: of the socket. Its owner may connect, and a group if one is given.
        group: name of an operating system's group.

    Raises:
        MosaicError: another process answers there, it cannot be made, or not be given to the group.
    """
    with socket.socket(socket.AF_UNIX) as listener:
        _clear(path)
        make_writable(path.parent, "--socket")
        before = os.umask(0o177)  # nobody else may connect, not even for a moment
        try:
            listener.bind(str(path))
        except OSError as error:
            raise MosaicError(f"--socket: {path} cannot be made ({error}): choose a shorter or another path") from error
        finally:
            os.umask(before)
        try:
            if group is not None:
                _open_to(path, group)
            listener.settimeout(_BETWEEN_SIGNALS)
            listener.listen()
            yield listener
        finally:
            path.unlink(missing_ok=True)


def _clear(path: Path) -> None:
    """Remove the socket of a process that has ended.

    Raises:
        MosaicError: a process answers there, or it is no socket.
    """
    try:
        if not path.exists():
            return
        if not path.is_socket():
            raise MosaicError(f"--socket: {path} exists and is no socket: choose another path")
        with socket.socket(socket.AF_UNIX) as tried:
            try:
                tried.connect(str(path))
            except ConnectionError:
                path.unlink()
                return
    except OSError as error:
        why = os.strerror(error.errno or 0)
        raise MosaicError(f"--socket: {path} cannot be looked at ({why}): choose another path") from error
    raise MosaicError(f"--socket: another process answers at {path}: end it first, or choose another path")


def _open_to(path: Path, group: str) -> None:
    try:
        os.chown(path, -1, grp.getgrnam(group).gr_gid)
    except (KeyError, OSError) as error:
        raise MosaicError(f"--group: {path} cannot be given to {group} ({error}): name a group of this user") from error
    path.chmod(0o660)
