"""What a run has cost: bytes for each kind of message, updates, seconds for each phase, and who was missing."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from mosaic.codec import size_in_bytes
from mosaic.messages import Declined, Executor, GeneratorReply, Reply, Request, TrainReply, Unreached, noting
from mosaic.training.signals import leave_if_asked_unless_distributed

_END: Any = object()
"""No reply is this; None might be one, since a client may send anything."""


@dataclass
class Books:
    """Sums since the start of the run; saved in snapshots.

    Attributes:
        bytes_down, bytes_up: to and from clients, by request class.
        updates: optimiser steps by what they train: ``local`` models, the server's ``student``, every ``generator``
            and ``discriminator``, wherever it is trained, with the attempts before it. What is declined in the end has
            no steps.
        seconds: wall time by phase.
        declined: what clients could not answer, in order: client, what was asked, and why.
        failed: likewise, which clients have failed, were late, have vanished, or sent what was refused; and the round.
    """

    bytes_down: dict[str, int] = field(default_factory=dict)
    bytes_up: dict[str, int] = field(default_factory=dict)
    updates: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    declined: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)

    def book_seconds(self, phase: str, seconds: float) -> None:
        """Book time under a phase."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds

    def book_updates(self, network: str, updates: int) -> None:
        """Book optimiser steps of a network."""
        self.updates[network] = self.updates.get(network, 0) + int(updates)  # numpy's numbers are in no snapshot

    def book_exchange(self, request: Request, reply: Reply) -> None:
        """Book one request and its reply: their bytes, or that the client declined."""
        kind = _kind(request)
        for bytes_sent, message in ((self.bytes_down, request), (self.bytes_up, reply)):
            bytes_sent.setdefault(kind, 0)
            if not isinstance(reply, Unreached):
                with suppress(TypeError):  # a reply may be anything before it is inspected
                    bytes_sent[kind] += size_in_bytes(message)
        if isinstance(reply, Declined) and reply.client == request.client:
            self.declined.append({"client": request.client, "asked": kind, "reason": reply.reason})

    def book_work(self, reply: Reply) -> None:
        """Book the updates that a reply reports, once it is believed."""
        match reply:
            case TrainReply(metrics={"steps": int(steps)}):
                self.book_updates("local", steps)
            case GeneratorReply(metrics={"steps": int(steps), "discriminator_steps": int(discriminator_steps)}):
                self.book_updates("generator", steps)
                self.book_updates("discriminator", discriminator_steps)

    def book_failure(self, request: Request, reason: str) -> None:
        """Book that a client was missing, and why."""
        self.failed.append(
            {"round": request.round, "client": request.client, "asked": _kind(request), "reason": reason}
        )

    def untrained(self, before: Mapping[str, Any] | None = None) -> str:
        """Return why the first client has not trained, if clients were asked to train and none has; else nothing.

        Args:
            before: totals since when; since the start of the run when not given.
        """
        told = before or {"updates": {}, "declined": (), "failed": ()}
        if self.updates.get("local", 0) > told["updates"].get("local", 0):
            return ""
        since = (*self.declined[len(told["declined"]) :], *self.failed[len(told["failed"]) :])
        return next((str(each["reason"]) for each in since if each["asked"] == "Train"), "")

    def totals(self) -> dict[str, dict[str, Any]]:
        """Return a copy of all sums as plain values."""
        return asdict(self)


class AccountedExecutor:
    """An executor that books requests and replies, and reports name and seconds of each phase to ``on_phase``."""

    def __init__(self, executor: Executor, books: Books, on_phase: Callable[[str, float], None]) -> None:
        self._executor, self._books, self._on_phase = executor, books, on_phase

    def map(self, requests: Iterable[Request], deadline: float | None = None) -> Iterator[Reply]:
        """Yield one reply for each request, in order; only the executor's own time is booked."""
        sent: deque[Request] = deque()
        phase, total = "", 0.0
        replies = self._executor.map(noting(requests, sent), deadline)
        try:
            while True:
                leave_if_asked_unless_distributed()
                start = time.perf_counter()
                reply = next(replies, _END)
                elapsed = time.perf_counter() - start
                if reply is _END:
                    break
                request = sent.popleft()
                phase, total = _PHASES[_kind(request)], total + elapsed
                self._books.book_seconds(phase, elapsed)
                self._books.book_exchange(request, reply)
                yield reply
        finally:
            if isinstance(replies, Generator):
                replies.close()  # whatever has ended this, workers are dealt no more
        if phase:
            self._on_phase(phase, total)


def _kind(request: Request) -> str:
    return type(request).__name__.removesuffix("Request")


_PHASES = {
    "Train": "local training",
    "Generator": "generators",
    "Prototype": "prototypes",
    "Release": "releases",
    "Evaluate": "validation",
}
