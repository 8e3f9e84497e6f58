"""How long a server waits for clients that come, go and answer late, on a clock of the test's own."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import pytest
import torch

from mosaic.codec import decode, encode, size_in_bytes
from mosaic.executors.remote import executor as remote
from mosaic.executors.remote.executor import RemoteExecutor
from mosaic.executors.remote.grid import Delivery
from mosaic.executors.remote.wire import Asked, Introduce, Introduction, Terms
from mosaic.messages import Declined, Failed, ReleaseRequest, Reply
from mosaic.runs.books import AccountedExecutor, Books

CLIENTS = 3


@dataclass
class Clock:
    """Passes while somebody sleeps."""

    now: float = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Mailbox:
    """Keeps each answer from when it is ready until its message ends, as Flower does; node 10 + i is client i.

    Attributes:
        clock: of the test.
        away: when nodes are away, from and to.
        seconds: which each client takes for its next requests; no time when there are none left.
    """

    clock: Clock
    away: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    seconds: Mapping[int, list[float]] = field(default_factory=dict)
    kept: dict[str, tuple[float, float, bytes]] = field(default_factory=dict)
    strangers: list[int] = field(default_factory=list)

    def nodes(self) -> dict[int, str]:
        present = range(CLIENTS)
        there = [10 + i for i in present if not within(self.clock.now, *self.away.get(i, (0, 0)))]
        return dict.fromkeys([*there, *self.strangers], "")

    def push(self, node: int, data: bytes, seconds: float) -> str:
        client, number = node - 10, str(len(self.kept))
        counts, asked = torch.tensor([1, 1]), decode(data, Asked)
        said: object = Introduction(client, "", counts, torch.zeros(0, dtype=torch.float64))
        takes = 0.5
        if not isinstance(asked.message, Introduce):
            said, left = Declined(client, "done"), self.seconds.get(client, [])
            takes = left.pop(0) if left else 0.5
        self.kept[number] = self.clock.now + takes, self.clock.now + seconds, encode(said)
        return number

    def pull(self, numbers: Collection[str], most: int) -> list[Delivery]:
        found = []
        for number in numbers:
            ready, end, data = self.kept[number]
            if self.clock.now > end:
                found.append(Delivery(number, None, "message unavailable"))
            elif self.clock.now >= ready:
                found.append(Delivery(number, data))
        return found

    def close(self) -> None:
        pass


def within(now: float, start: float, end: float) -> bool:
    return start <= now < end


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(remote, "time", clock)
    return clock


def met(mailbox: Mailbox) -> RemoteExecutor:
    """An executor that has waited a minute for its clients."""

    class Posted(RemoteExecutor):
        def open_grid(self) -> Mailbox:
            return mailbox

    executor = Posted(patience=60)
    executor.terms = Terms("", CLIENTS, 2, (1, 8, 8), (0.5,), (0.5,))
    executor._meet()
    return executor


def asked(executor: RemoteExecutor, *clients: int, deadline: float | None = None) -> Iterator[Reply]:
    return executor.map([ReleaseRequest(client, 1) for client in clients], deadline)


def failed(replies: Iterator[Reply]) -> list[int]:
    return [reply.client for reply in replies if isinstance(reply, Failed)]


def test_who_comes_late_takes_part_from_the_next_phase_on(clock: Clock) -> None:
    executor = met(Mailbox(clock, {2: (0, 1200)}, {i: [300.0] * 9 for i in range(CLIENTS)}))
    assert [failed(asked(executor, 0, 1, 2)) for _ in range(3)] == [[2], [], []]


def test_what_was_never_sent_is_not_counted(clock: Clock) -> None:
    executor = met(Mailbox(clock, {2: (0, 9999)}))
    books = Books()
    replies = AccountedExecutor(executor, books, lambda *_: None).map([ReleaseRequest(client, 1) for client in (0, 2)])
    there, _ = list(replies)
    assert books.bytes_down == {"Release": size_in_bytes(ReleaseRequest(0, 1))}
    assert books.bytes_up == {"Release": size_in_bytes(there)}


def test_who_was_away_between_two_phases_is_back_in_the_next(clock: Clock) -> None:
    executor = met(Mailbox(clock, {2: (1600, 1630)}, {i: [300.0] * 9 for i in range(CLIENTS)}))
    assert failed(asked(executor, 0, 1, 2)) == []
    clock.now = 1610.0
    assert failed(asked(executor, 0, 1, 2)) == []


def test_a_stranger_is_asked_ever_more_rarely_and_told_once(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    mailbox = Mailbox(clock)
    executor = met(mailbox)
    mailbox.strangers = [99]
    before = len(mailbox.kept)
    mailbox.seconds = {0: [4000.0]}
    with caplog.at_level("WARNING", "mosaic"):
        assert failed(asked(executor, 0)) == []
    assert 5 < len(mailbox.kept) - before < 10
    assert len([record for record in caplog.records if "node 99 is left out" in record.getMessage()]) == 1


def test_grace_begins_when_a_client_is_seen_to_be_away(clock: Clock) -> None:
    mailbox = Mailbox(clock, {2: (1500, 9999)})
    executor = met(mailbox)
    assert failed(asked(executor, 0, 1, 2)) == []
    clock.now = 5000.0
    assert failed(asked(executor, 0, 1, 2)) == [2]
    assert 5000 + executor.grace < clock.now < 5000 + executor.grace + 2


def test_answers_that_come_while_another_client_is_asked_again_are_kept(clock: Clock) -> None:
    executor = met(Mailbox(clock, {}, {0: [500.0, 400.0], 1: [550.0], 2: [580.0]}))
    replies = asked(executor, 0, 1, 2, deadline=600)
    assert isinstance(next(replies), Declined)
    assert isinstance(next(asked(executor, 0, deadline=600)), Declined)
    assert failed(replies) == []
