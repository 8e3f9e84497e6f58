"""Who answers which request: nothing is lost, order is kept, little is held, and speed decides nothing."""

import random as python_random
from threading import Thread

import pytest

from mosaic.executors.base import Envelope
from mosaic.executors.scheduling import Scheduler
from mosaic.messages import ClientState, Declined, PrototypeRequest, Reply, Request
from tests.cases import for_each


def requests(count: int) -> list[Request]:
    return [PrototypeRequest(client, 1, {}) for client in range(count)]


def answer(request: Request) -> Envelope[Reply]:
    return Envelope(Declined(request.client, ""), ClientState({}))


def clients_of(scheduler: Scheduler, worker: int) -> list[int]:
    """Clients whose requests a worker could start now, in its order."""
    taken = iter(lambda: scheduler.take(worker, wait=False), None)
    return [request.client for _, request in taken]


def test_the_longest_go_first_and_loads_are_even() -> None:
    """By hand: 9 to the first, 7 to the second, 4 to the second (7 < 9), 1 to the first (9 < 11)."""
    costs = {0: 1.0, 1: 9.0, 2: 4.0, 3: 7.0}
    scheduler = Scheduler(requests(4), 2, lambda request: costs[request.client])
    assert scheduler.plan()
    assert clients_of(scheduler, 0) == [1, 0]
    assert clients_of(scheduler, 1) == [3, 2]


def test_equal_requests_go_round() -> None:
    scheduler = Scheduler(requests(6), 3, lambda _: 1.0)
    scheduler.plan()
    assert [clients_of(scheduler, worker) for worker in range(3)] == [[0, 3], [1, 4], [2, 5]]


def test_a_worker_that_had_much_gets_less_of_the_next_block() -> None:
    """Two workers, blocks of four; the first has 90 of 93 and so nothing of the second block."""
    costs = [90.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0]
    scheduler = Scheduler(requests(8), 2, lambda request: costs[request.client])
    scheduler.plan()
    assert clients_of(scheduler, 0) == [0]
    assert clients_of(scheduler, 1) == [1, 2, 3]
    for place in range(4):
        scheduler.put(place, answer(requests(8)[place]))
    for _ in range(4):
        assert scheduler.collect(0) is not None
        scheduler.plan()
    assert clients_of(scheduler, 0) == []
    assert clients_of(scheduler, 1) == [4, 5, 6, 7]


def test_nothing_starts_far_ahead_of_the_next_reply() -> None:
    scheduler = Scheduler(requests(50), 2, lambda request: float(request.client))
    for collected in range(50):
        assert scheduler.plan()
        for worker in range(2):
            while (taken := scheduler.take(worker, wait=False)) is not None:
                place, request = taken
                assert place < collected + 4
                scheduler.put(place, answer(request))
        ready = scheduler.collect(0)
        assert ready is not None
        assert ready.message.client == collected
    assert not scheduler.plan()


def test_requests_are_read_as_late_as_possible() -> None:
    read: list[int] = []

    def lazily() -> object:
        for request in requests(100):
            read.append(request.client)
            yield request

    scheduler = Scheduler(lazily(), 2, lambda _: 1.0)  # type: ignore[arg-type]
    scheduler.plan()
    assert len(read) == 4


@for_each("workers", [1, 2, 3, 7])
def test_replies_come_in_order_whoever_is_quicker(workers: int) -> None:
    random = python_random.Random(workers)
    scheduler = Scheduler(requests(100), workers, lambda request: (7 * request.client) % 13)
    order: list[int] = []

    def work(worker: int) -> None:
        while (taken := scheduler.take(worker)) is not None:
            place, request = taken
            sum(range(random.randrange(20_000)))
            scheduler.put(place, answer(request))

    threads = [Thread(target=work, args=(worker,)) for worker in range(workers)]
    for thread in threads:
        thread.start()
    while scheduler.plan():
        ready = scheduler.collect(10)
        assert ready is not None, "a deadlock"
        order.append(ready.message.client)
    scheduler.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert order == list(range(100))


def test_what_a_worker_fails_with_reaches_the_collecting_thread() -> None:
    scheduler = Scheduler(requests(2), 1, lambda _: 1.0)
    scheduler.plan()
    scheduler.close(ZeroDivisionError("by the worker"))
    with pytest.raises(ZeroDivisionError, match="by the worker"):
        scheduler.collect(10)


def test_waiting_for_a_reply_ends() -> None:
    scheduler = Scheduler(requests(2), 1, lambda _: 1.0)
    scheduler.plan()
    assert scheduler.collect(0.01) is None
