"""Threads of executors with several workers, and what becomes of workers that are late, vanish or talk nonsense."""

from collections.abc import Callable, Iterable
from functools import partial
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mosaic.codec import decode, encode
from mosaic.errors import MosaicError
from mosaic.executors import parallel
from mosaic.executors.base import Envelope, WorkerLostError
from mosaic.executors.injection import Injector
from mosaic.executors.parallel import ParallelExecutor, WorkerEndedError
from mosaic.executors.scheduling import Scheduler
from mosaic.messages import ClientState, Declined, Failed, PrototypeRequest, Reply, Request

LIMIT = 60
KEPT = ClientState({"kept": torch.ones(1)})


def requests(clients: Iterable[int]) -> list[Request]:
    return [PrototypeRequest(client, 1, {}) for client in clients]


def declined(client: int) -> bytes:
    return encode(Envelope(Declined(client, "tired"), KEPT))


class Declining(ParallelExecutor):
    """Has workers that decline everything, but for some clients.

    Args:
        workers: how many.
        instead: what comes of a request, by client.
    """

    def __init__(self, workers: int, instead: dict[int, Callable[[], bytes]] | None = None) -> None:
        super().__init__(workers, threads=None)
        self.instead, self.started_again = instead or {}, list[int]()
        worker: Any = SimpleNamespace(images=[1] * 20)
        self.start(worker)

    def _send(self, worker: int, request: bytes) -> bytes:
        client = decode(request, Envelope).message.client
        return self.instead[client]() if client in self.instead else declined(client)

    def _start_again(self, worker: int) -> None:
        self.started_again.append(worker)


def end() -> bytes:
    raise WorkerEndedError


def replies(executor: Declining, clients: Iterable[int], deadline: float | None = None) -> list[Reply]:
    found = list(executor.map(requests(clients), deadline))
    executor._join_senders()
    return found


def test_threads_end_although_nobody_reads_the_replies_to_their_end() -> None:
    executor = Declining(workers=3)
    assert next(executor.map(requests(range(20)))) == Declined(0, "tired")
    joining = Thread(target=executor._join_senders, daemon=True)
    joining.start()
    joining.join(LIMIT)
    assert not joining.is_alive()
    assert [thread.is_alive() for thread in executor._senders] == [False] * 3


def test_a_worker_that_is_late_is_not_waited_for_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock jumps beyond the deadline when client 1's worker begins to hang; it comes back much later."""
    now, come_back, last_answer = [0.0], Event(), Event()

    def hang() -> bytes:
        now[0] += 11
        assert come_back.wait(LIMIT)
        last_answer.set()
        return declined(1)

    monkeypatch.setattr(parallel, "Scheduler", partial(Scheduler, clock=lambda: now[0]))
    executor = Declining(workers=2, instead={1: hang})
    found = list(executor.map(requests(range(8)), deadline=10.0))
    assert found[1] == Failed(1, "no answer within 10 s")
    assert found[5:] == [Declined(client, "tired") for client in (5, 6, 7)], (
        "they start only after client 1 is given up"
    )
    assert 1 not in executor.states, "an answer that is not taken changes nothing"
    come_back.set()
    assert last_answer.wait(LIMIT)
    executor.instead.clear()
    assert replies(executor, [3, 1, 4], deadline=10.0) == [Declined(client, "tired") for client in (3, 1, 4)]


def test_a_worker_that_ends_is_started_again_and_its_client_has_failed() -> None:
    executor = Declining(workers=2, instead={3: end})
    found = replies(executor, range(6))
    assert found[3] == Failed(3, "its process ended")
    assert [reply.client for reply in found if isinstance(reply, Declined)] == [0, 1, 2, 4, 5]
    assert executor.started_again == [1]
    assert 3 not in executor.states


def test_a_client_that_ends_its_worker_whenever_it_is_asked_has_failed_each_time() -> None:
    executor = Declining(workers=1, instead={3: end})
    for _ in range(4):
        assert replies(executor, [3]) == [Failed(3, "its process ended")]
    assert executor.started_again == [0] * 4


def test_a_worker_that_ends_for_one_client_after_the_other_ends_the_run() -> None:
    executor = Declining(workers=1, instead=dict.fromkeys([1, 2, 4, 5, 6], end))
    assert len(replies(executor, [1, 2, 3, 4])) == 4, "one answer in between is enough"
    with pytest.raises(WorkerLostError, match="worked for client 4, and again for 5 and 6, without an answer"):
        replies(executor, [5, 6])


def test_a_worker_that_cannot_be_started_again_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise MosaicError("no room")

    monkeypatch.setattr(Declining, "_start_again", refuse)
    with pytest.raises(MosaicError, match="no room"):
        replies(Declining(workers=1, instead={0: end}), range(3))


def test_a_process_that_somebody_else_has_launched_is_lost() -> None:
    executor = Declining(workers=1, instead={2: end})
    executor.restarts = False
    with pytest.raises(WorkerLostError, match="process 0 of 1 ended while it worked for client 2"):
        replies(executor, range(4))


def test_a_crash_on_purpose_spares_such_a_process() -> None:
    executor = Declining(workers=1)
    executor.restarts = False
    executor._injector = Injector({"crash": 1.0})
    assert replies(executor, [2]) == [Failed(2, "its process ended")]


@pytest.mark.parametrize("garbage", [b"", b"no message", encode(KEPT)], ids=["nothing", "text", "another class"])
def test_bytes_that_are_no_answer_are_the_clients_failure(garbage: bytes) -> None:
    found = replies(Declining(workers=2, instead={1: lambda: garbage}), range(3))
    assert found == [Declined(0, "tired"), Failed(1, "it sent bytes that do not decode"), Declined(2, "tired")]


def test_a_reply_in_anothers_name_changes_nothing_of_the_other() -> None:
    executor = Declining(workers=1, instead={0: lambda: declined(7)})
    assert replies(executor, [0]) == [Declined(7, "tired")]
    assert list(executor.states) == [0]
