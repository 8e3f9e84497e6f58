"""Ask clients on hosts of their own; a client that does not answer in time is missing."""

import logging
import math
import time
import uuid
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import torch

from mosaic.client.worker import Worker
from mosaic.codec import decode, encode
from mosaic.data.pixels import SMALLEST_DEVIATION
from mosaic.errors import MosaicError, printable, require_at_least_zero, require_positive
from mosaic.executors.base import ClientExecutor, late, unreadable
from mosaic.executors.remote.grid import Delivery, Grid
from mosaic.executors.remote.introductions import fault_of, read_roster
from mosaic.executors.remote.wire import LARGEST_HEADER, Asked, Introduce, Introduction, Terms
from mosaic.messages import Declined, Failed, Reply, Request, Unreached
from mosaic.training.signals import leave_if_asked

log = logging.getLogger(__name__)
_POLL, _LOOK = 0.1, 1.0
"""Seconds between two looks for replies, and for nodes that come and go."""
_HELLO, _ASK_AGAIN, _LONGEST_INTRODUCTION = 3600.0, 60.0, 2**24
"""How long a node may take to say who it is; when it is asked again, later and later; most bytes of its answer."""
_LONGEST, _SPARE = 12 * 3600.0, 60.0
"""How long an answer is waited for without a deadline; for how long an engine is to keep one that comes in time."""


class ClientsAbsentError(MosaicError):
    """Too few clients have come."""

    exit_code = 69


class _Asking:
    """What one call of ``map`` asks, and what has come; ``absent`` has requests to clients that are away, by place."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.clients: list[int] = []
        self.absent: dict[int, Request] = {}
        self.replies: dict[int, Reply] = {}


class RemoteExecutor(ClientExecutor):
    """Asks clients through an engine; subclasses say which.

    Args:
        roster: YAML file that maps each client's number to its public key in OpenSSH's format. Without one, nodes are
            believed to be whom they say that they are: enough for a trial only.
        patience: seconds to wait at the start until all clients are there.
        fewest: clients that must be there by then; the run goes on without the others, who may come later.
        grace: seconds that a client may be seen to be away, as its host or Flower starts again, before it is missing.
        most_megabytes: largest reply that is read; four times the largest model, and at least 64, when not given.
    """

    is_remote = True
    terms: Terms  # the command line sets it

    def __init__(
        self,
        roster: str | None = None,
        patience: float = 600.0,
        fewest: int = 1,
        grace: float = 120.0,
        most_megabytes: float | None = None,
    ) -> None:
        super().__init__(None)
        require_positive("executor", patience=patience, fewest=fewest)
        require_at_least_zero("executor", grace=grace)
        if most_megabytes is not None:
            require_positive("executor", most_megabytes=most_megabytes)
        self.roster, self.patience, self.fewest, self.most_megabytes = roster, patience, fewest, most_megabytes
        self.grace = grace
        self._run, self._session, self._after = "", uuid.uuid4().hex, 0
        self._roster: Mapping[str, int] | None = None
        self._grid: Grid | None = None
        self._nodes: dict[int, int] = {}  # clients and their nodes
        self._greeted: dict[str, int] = {}  # messages that ask nodes who they are
        self._asked: dict[int, tuple[float, float]] = {}  # nodes: when to ask who it is, and how long to wait then
        self._left_out: dict[int, str] = {}  # nodes that are no client of this run, and why
        self._known: dict[int, Introduction] = {}
        self._away: dict[int, float] = {}  # clients that have been there, and since when each is away
        self._waiting: dict[str, tuple[_Asking, int, float]] = {}  # messages: whose, at which place, and until when
        self._most, self._met = 64 * 2**20, False

    @abstractmethod
    def open_grid(self) -> Grid:
        """Start the engine."""

    def pixel_statistics(self) -> tuple[list[float], list[float]]:
        """Return mean and standard deviation per channel of the pixels of all clients that come, from their sums."""
        self._meet()
        sums = [self._known[client].pixel_sums for client in sorted(self._known)]  # whoever came first
        count, total, squares = torch.stack(sums).sum(0)
        mean = total / count
        std = (squares / count - mean**2).clamp(min=0).sqrt().clamp(min=SMALLEST_DEVIATION)
        return mean.tolist(), std.tolist()

    def note_run(self, run: str, after: int) -> None:
        """Note which run this is: clients keep what they remember by its name, and go back to a round if need be."""
        self._run, self._after = run, after

    def start(self, worker: Worker) -> None:
        """Wait until clients are there."""
        super().start(worker)
        largest = worker.largest_model_bytes
        self._most = int((self.most_megabytes or max(64, 4 * largest / 2**20)) * 2**20)
        self._meet()
        for client, who in self._known.items():
            worker.note_class_counts(client, who.class_counts)

    def present(self) -> frozenset[int]:
        """Return the clients that are there."""
        self._find()
        return frozenset(self._nodes)

    def map(self, requests: Iterable[Request], deadline: float | None = None) -> Iterator[Reply]:
        """Send all requests, and yield a reply for each, in order; a client without one in time has failed."""
        asking = _Asking(deadline or _LONGEST)
        self._find()
        try:
            for place, request in enumerate(requests):
                asking.clients.append(request.client)
                asking.absent[place] = request
                self._send_present(asking)
            looked = time.monotonic()
            for place in range(len(asking.clients)):
                while place not in asking.replies:
                    leave_if_asked()
                    self._collect()
                    if asking.absent or time.monotonic() - looked >= _LOOK:
                        self._find()
                        looked = time.monotonic()
                    self._send_present(asking)
                    for at in [at for at, request in asking.absent.items() if self._is_gone(request.client)]:
                        asking.replies[at] = Unreached(asking.absent.pop(at).client, "it is not connected")
                    if place not in asking.replies:
                        time.sleep(_POLL)
                yield asking.replies.pop(place)
        finally:
            self._waiting = {number: each for number, each in self._waiting.items() if each[0] is not asking}

    def _send_present(self, asking: _Asking) -> None:
        """Send requests to clients that are there."""
        for place in [place for place, request in asking.absent.items() if request.client in self._nodes]:
            request = asking.absent.pop(place)
            number = self._send(self._nodes[request.client], request, asking.seconds + _SPARE)
            self._waiting[number] = asking, place, time.monotonic() + asking.seconds

    def _collect(self) -> None:
        """Take what has come for all requests, also for those of a call of ``map`` that waits until this one ends."""
        for found in self._open.pull(self._waiting.keys(), self._most) if self._waiting else ():
            asking, at, _ = self._waiting.pop(found.number)
            asking.replies[at] = self._read(asking.clients[at], found)
        now = time.monotonic()
        for number in [number for number, (_, _, end) in self._waiting.items() if now > end]:
            asking, at, _ = self._waiting.pop(number)
            asking.replies[at] = late(asking.clients[at], asking.seconds)

    def _is_gone(self, client: int) -> bool:
        """Whether a client has never come, or has been away for longer than it may."""
        return client not in self._known or time.monotonic() - self._away.get(client, math.inf) > self.grace

    def close(self) -> None:
        """End the engine."""
        if self._grid is not None:
            self._grid.close()
            self._grid = None
        self._met = False
        self._waiting.clear()
        super().close()

    @property
    def _open(self) -> Grid:
        if self._grid is None:
            self._roster = None if self.roster is None else read_roster(self.roster)
            self._grid = self.open_grid()
        return self._grid

    def _send(self, node: int, message: Request | Introduce, seconds: float) -> str:
        terms = self.terms
        asked = Asked(self._run, self._session, self._after, terms.agreement, terms.mean, terms.std, message)
        return self._open.push(node, encode(asked), seconds)

    def _read(self, client: int, found: Delivery) -> Reply:
        """Decode what has come for a request; the cohort inspects it."""
        if found.data is None:
            advice = " (executor.most_megabytes)" if found.error.startswith("expected at most") else ""
            return Failed(client, printable(f"{found.error}{advice}"))
        try:
            reply: Reply = decode(found.data, object, LARGEST_HEADER)  # type: ignore[assignment]
        except ValueError:
            return unreadable(client)
        if isinstance(reply, Declined | Failed):  # a stranger's words, for log and terminal
            return replace(reply, reason=printable(reply.reason))
        return reply

    def _meet(self) -> None:
        """Wait until all clients are there, or as few as must be once patience is at its end; it is used up once."""
        if self._met:
            self._find()
            return
        end, told, expected = time.monotonic() + self.patience, -1, self.terms.num_clients
        while len(self._find()) < expected:
            if len(self._nodes) != told:
                told = len(self._nodes)
                log.info("%d of %d clients are there", told, expected)
            leave_if_asked()
            if time.monotonic() > end:
                absent = sorted(set(range(expected)) - self._nodes.keys())
                if len(self._nodes) < self.fewest:
                    raise ClientsAbsentError(
                        f"executor.fewest: expected {self.fewest} of {expected} clients within {self.patience:g} s, "
                        f"got {len(self._nodes)}; not there: {absent}: look into their logs, or raise executor.patience"
                    )
                log.warning("going on without clients %s, who have not come within %g s", absent, self.patience)
                break
            time.sleep(_POLL)
        self._met = True

    def _find(self) -> dict[int, int]:
        """Return all clients that are there, with their nodes; ask other nodes who they are, and do not wait."""
        there, now = self._open.nodes(), time.monotonic()
        for client in [client for client, node in self._nodes.items() if node not in there]:
            del self._nodes[client]
            self._away[client] = now
        strangers = there.keys() - set(self._nodes.values())
        self._asked = {node: when for node, when in self._asked.items() if node in strangers}
        self._greeted = {number: node for number, node in self._greeted.items() if node in strangers}
        for node in strangers:
            due, wait = self._asked.get(node, (now, _ASK_AGAIN))
            if now >= due:
                self._asked[node] = now + wait, min(2 * wait, _HELLO)
                self._greeted = {number: other for number, other in self._greeted.items() if other != node}
                self._greeted[self._send(node, Introduce(not self.terms.mean), _HELLO)] = node
        for found in self._open.pull(self._greeted.keys(), _LONGEST_INTRODUCTION) if self._greeted else ():
            node = self._greeted.pop(found.number)
            reason = self._welcome(node, there[node], found)
            if reason is not None and reason != self._left_out.get(node):
                log.warning("node %d is left out: %s", node, printable(reason))
            self._left_out[node] = reason or ""
        return self._nodes

    def _welcome(self, node: int, key: str, found: Delivery) -> str | None:
        """Take a node for a client, or return why not."""
        if found.data is None:
            return f"it does not say who it is ({found.error})"
        try:
            who = decode(found.data, Introduction, LARGEST_HEADER)
        except ValueError as error:
            return f"it does not say who it is ({error})"
        if (fault := fault_of(who, key, self.terms, self._roster)) is not None:
            return fault
        if who.client in self._nodes:
            return f"client {who.client} is there already, as node {self._nodes[who.client]}"
        if self._roster is None:
            log.warning("client %d is believed without a roster of keys, which is enough for a trial only", who.client)
        images = "" if self.terms.private else f": {int(who.class_counts.sum())} images"
        log.info("client %d is node %d%s", who.client, node, images)
        self._nodes[who.client], self._known[who.client] = node, who
        self._away.pop(who.client, None)
        if self._worker is not None:
            self._worker.note_class_counts(who.client, who.class_counts)
        return None
