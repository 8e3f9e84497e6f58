"""Ask clients on hosts of their own; who does not answer in time is missing."""

import logging
import time
import uuid
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

import torch
import yaml
from torch import Tensor

from mosaic.client.worker import Worker
from mosaic.codec import decode, encode
from mosaic.errors import MosaicError, require_positive
from mosaic.executors.base import ClientExecutor
from mosaic.executors.remote.grid import Delivery, Grid
from mosaic.executors.remote.wire import Asked, Introduce, Introduction, Terms
from mosaic.messages import Failed, Reply, Request
from mosaic.training.signals import leave_if_asked

log = logging.getLogger(__name__)
LARGEST_HEADER = 2**23
"""Bytes that names and plain values of a reply may take: about 80,000 tensors."""
_POLL, _HELLO, _ASK_AGAIN, _LONGEST = 0.1, 60.0, 60.0, 12 * 3600.0


class ClientsAbsentError(MosaicError):
    """Too few clients have come."""

    exit_code = 69


class RemoteExecutor(ClientExecutor):
    """Asks clients through an engine; subclasses say which.

    Args:
        roster: YAML file that maps each client's number to its public key in OpenSSH's format. Without one, nodes are
            believed to be whom they say that they are: enough for a trial only.
        patience: seconds to wait at the start until all clients are there.
        fewest: clients that must be there by then; the run goes on without the others, who may come later.
        most_megabytes: largest reply that is read; four times the largest model, and at least 64, when not given.
    """

    is_remote = True
    terms: Terms  # the command line sets it

    def __init__(
        self,
        roster: str | None = None,
        patience: float = 600.0,
        fewest: int = 1,
        most_megabytes: float | None = None,
    ) -> None:
        super().__init__(None)
        require_positive("executor", patience=patience, fewest=fewest)
        if most_megabytes is not None:
            require_positive("executor", most_megabytes=most_megabytes)
        self.roster, self.patience, self.fewest, self.most_megabytes = roster, patience, fewest, most_megabytes
        self._run, self._session, self._after = "", uuid.uuid4().hex, 0
        self._grid: Grid | None = None
        self._nodes: dict[int, int] = {}  # clients and their nodes
        self._greeted: dict[str, int] = {}  # messages that ask nodes who they are
        self._left_out: dict[int, float] = {}  # nodes that are no client of this run, and when that was found out
        self._known: dict[int, Introduction] = {}
        self._most = 64 * 2**20

    @abstractmethod
    def open_grid(self) -> Grid:
        """Start the engine."""

    @cached_property
    def _keys(self) -> Mapping[str, int]:
        """Each public key's client; the comment at its end does not count."""
        assert self.roster is not None
        try:
            entries = yaml.safe_load(Path(self.roster).read_text())
            return {_bare(key): int(client) for client, key in entries.items()}
        except (OSError, ValueError, AttributeError, TypeError, yaml.YAMLError) as error:
            raise MosaicError(
                f"executor.roster: expected a YAML file with a line `client: public key` for each client, got "
                f"{self.roster} ({' '.join(str(error).split())[:120]}): write it, or take the one of mosaic deploy"
            ) from error

    def pixel_statistics(self) -> tuple[list[float], list[float]]:
        """Return mean and standard deviation per channel of the pixels of all clients that come, from their sums."""
        self._meet()
        count, total, squares = torch.stack([who.pixel_sums for who in self._known.values()]).sum(0)
        mean = total / count
        std = (squares / count - mean**2).clamp(min=0).sqrt().clamp(min=1e-6)
        return mean.tolist(), std.tolist()

    def goes_on(self, run: str, after: int) -> None:
        """Note which run this is: clients keep what they remember by its name, and go back to a round if need be."""
        self._run, self._after = run, after

    def start(self, worker: Worker) -> None:
        """Wait until clients are there."""
        super().start(worker)
        largest = worker.largest_model_bytes
        self._most = int((self.most_megabytes or max(64, 4 * largest / 2**20)) * 2**20)
        self._meet()
        for client, who in self._known.items():
            worker.hear(client, who.class_counts)

    def present(self) -> frozenset[int]:
        """Return the clients that are there."""
        self._find()
        return frozenset(self._nodes)

    def map(self, requests: Iterable[Request], deadline: float | None = None) -> Iterator[Reply]:
        """Send all requests, and yield a reply for each, in order; who does not answer in time has failed."""
        self._find()
        waiting: dict[str, tuple[int, float]] = {}  # messages: place of the request, and the end of patience
        clients: list[int] = []
        replies: dict[int, Reply] = {}
        seconds = deadline or _LONGEST
        for place, request in enumerate(requests):
            clients.append(request.client)
            if request.client in self._nodes:
                number = self._send(self._nodes[request.client], request, seconds)
                waiting[number] = place, time.monotonic() + seconds
            else:
                replies[place] = Failed(request.client, "it is not connected")
        for place in range(len(clients)):
            while place not in replies:
                leave_if_asked()
                for found in self._open.pull(waiting.keys()):
                    at, _ = waiting.pop(found.number)
                    replies[at] = self._read(clients[at], found)
                now = time.monotonic()
                for number in [number for number, (_, end) in waiting.items() if now > end]:
                    at, _ = waiting.pop(number)
                    replies[at] = Failed(clients[at], f"it has not answered within {seconds:g} s")
                if place not in replies:
                    time.sleep(_POLL)
            yield replies.pop(place)

    def close(self) -> None:
        """End the engine."""
        if self._grid is not None:
            self._grid.close()
            self._grid = None
        super().close()

    @property
    def _open(self) -> Grid:
        if self._grid is None:
            self._grid = self.open_grid()
        return self._grid

    def _send(self, node: int, message: Request | Introduce, seconds: float) -> str:
        terms = self.terms
        asked = Asked(self._run, self._session, self._after, terms.agreement, terms.mean, terms.std, message)
        return self._open.push(node, encode(asked), seconds)

    def _read(self, client: int, found: Delivery) -> Reply:
        """Decode what has come for a request; the cohort inspects it."""
        if found.data is None:
            return Failed(client, found.error)
        try:
            return self._decoded(found.data)
        except ValueError as error:
            return Failed(client, f"its answer cannot be read: {error}")

    def _decoded(self, data: bytes) -> Reply:
        if len(data) > self._most:
            raise ValueError(f"expected at most {self._most} bytes, got {len(data)} (executor.most_megabytes)")
        reply: Reply = decode(data, object, LARGEST_HEADER)  # type: ignore[assignment]
        return reply

    def _meet(self) -> None:
        """Wait until all clients are there, or as few as must be once patience is at its end."""
        end, told, expected = time.monotonic() + self.patience, -1, self.terms.num_clients
        while len(self._find()) < expected:
            if len(self._nodes) != told:
                told = len(self._nodes)
                log.info("%d of %d clients are there", told, expected)
            leave_if_asked()
            if time.monotonic() > end:
                absent = sorted(set(range(expected)) - self._nodes.keys())
                if len(self._nodes) >= self.fewest:
                    log.warning("going on without clients %s, who have not come within %g s", absent, self.patience)
                    return
                raise ClientsAbsentError(
                    f"executor.fewest: expected {self.fewest} of {expected} clients within {self.patience:g} s, got "
                    f"{len(self._nodes)}; not there: {absent}: look into their logs, or raise executor.patience"
                )
            time.sleep(_POLL)

    def _find(self) -> dict[int, int]:
        """Return all clients that are there, with their nodes; ask nodes that are new who they are, and do not wait."""
        there, now = self._open.nodes(), time.monotonic()
        self._nodes = {client: node for client, node in self._nodes.items() if node in there}
        known = {*self._nodes.values(), *self._greeted.values()}
        for node in there:
            if node not in known and now - self._left_out.get(node, -_ASK_AGAIN) >= _ASK_AGAIN:
                self._greeted[self._send(node, Introduce(not self.terms.mean), _HELLO)] = node
        for found in self._open.pull(self._greeted.keys()) if self._greeted else ():
            node = self._greeted.pop(found.number)
            if (reason := self._welcome(node, there.get(node, ""), found)) is not None:
                log.warning("node %d is left out: %s", node, reason)
                self._left_out[node] = now
        return self._nodes

    def _welcome(self, node: int, key: str, found: Delivery) -> str | None:
        """Take a node for a client, or return why not."""
        if found.data is None:
            return f"it does not say who it is ({found.error})"
        try:
            who = decode(found.data, Introduction, LARGEST_HEADER)
        except ValueError as error:
            return f"it does not say who it is ({error})"
        if who.agreement != self.terms.agreement:
            return (
                f"client {who.client} runs another configuration or version of mosaic: both ends need the same "
                "seed_everything, model, data (but for the source), algorithm and clients"
            )
        if self.roster is not None and self._keys.get(_bare(key)) != who.client:
            return f"it says that it is client {who.client}, and its key is not that client's in {self.roster}"
        if (fault := self._unfit(who)) is not None:
            return f"client {who.client}: {fault}"
        if who.client in self._nodes:
            return f"client {who.client} is there already, as node {self._nodes[who.client]}"
        if self.roster is None:
            log.warning("client %d is believed without a roster of keys, which is enough for a trial only", who.client)
        log.info("client %d is node %d: %d images", who.client, node, int(who.class_counts.sum()))
        self._nodes[who.client], self._known[who.client] = node, who
        if self._worker is not None:
            self._worker.hear(who.client, who.class_counts)
        return None

    def _unfit(self, who: Introduction) -> str | None:
        """Return what is wrong with what a client says of itself, if anything is."""
        terms, counts = self.terms, who.class_counts
        if not 0 <= who.client < terms.num_clients:
            return f"expected a number in 0..{terms.num_clients - 1}"
        if counts.shape != (terms.num_classes,) or counts.dtype != torch.int64:
            return f"expected a number of images for each of {terms.num_classes} classes, got {tuple(counts.shape)}"
        if int(counts.min()) < 0 or not 0 < sum(counts.tolist()) < 2**31:
            return "expected numbers of images of at least 0, and an image to train on"
        if not terms.mean and not _are_sums(who.pixel_sums, terms.channels):
            return f"expected number, sum and sum of squares of pixels, float64 of shape (3, {terms.channels})"
        return None


def _are_sums(sums: Tensor, channels: int) -> bool:
    fits = sums.shape == (3, channels) and sums.dtype == torch.float64 and bool(sums.isfinite().all())
    return fits and bool((sums[0] >= 1).all() and (sums >= 0).all() and (sums[1:] <= sums[0]).all())


def _bare(key: str) -> str:
    """Return type and body of a public key, without its comment."""
    return " ".join(str(key).split()[:2])
