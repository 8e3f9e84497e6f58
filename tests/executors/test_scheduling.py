"""Who answers which request: nothing is lost, order is kept, little is held, and speed decides nothing."""

import random as python_random
from threading import Thread

import pytest

from mosaic.executors.scheduling import Answer, Sharing
from mosaic.messages import ClientState, Declined, PrototypeRequest, Request
from tests.cases import for_each


def requests(count: int) -> list[Request]:
    return [PrototypeRequest(client, 1, {}) for client in range(count)]


def answer(request: Request) -> Answer:
    return Answer(Declined(request.client, ""), ClientState({}))


def clients_of(sharing: Sharing, worker: int) -> list[int]:
    """What a worker could begin now, in its order."""
    taken = iter(lambda: sharing.take(worker, wait=False), None)
    return [request.client for _, request in taken]


def test_the_longest_go_first_and_loads_are_even() -> None:
    """By hand: 9 to the first, 7 to the second, 4 to the second (7 < 9), 1 to the first (9 < 11)."""
    costs = {0: 1.0, 1: 9.0, 2: 4.0, 3: 7.0}
    sharing = Sharing(requests(4), 2, lambda request: costs[request.client])
    assert sharing.plan()
    assert clients_of(sharing, 0) == [1, 0]
    assert clients_of(sharing, 1) == [3, 2]


def test_equal_requests_go_round() -> None:
    sharing = Sharing(requests(6), 3, lambda _: 1.0)
    sharing.plan()
    assert [clients_of(sharing, worker) for worker in range(3)] == [[0, 3], [1, 4], [2, 5]]


def test_a_worker_that_had_much_gets_less_of_the_next_block() -> None:
    """Two workers, blocks of four; the first has 90 of 93 and so nothing of the second block."""
    costs = [90.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0]
    sharing = Sharing(requests(8), 2, lambda request: costs[request.client])
    sharing.plan()
    assert clients_of(sharing, 0) == [0]
    assert clients_of(sharing, 1) == [1, 2, 3]
    for place in range(4):
        sharing.put(place, answer(requests(8)[place]))
    for _ in range(4):
        assert sharing.collect(0) is not None
        sharing.plan()
    assert clients_of(sharing, 0) == []
    assert clients_of(sharing, 1) == [4, 5, 6, 7]


def test_nothing_is_begun_far_ahead_of_the_next_answer() -> None:
    sharing = Sharing(requests(50), 2, lambda request: float(request.client))
    for collected in range(50):
        assert sharing.plan()
        for worker in range(2):
            while (taken := sharing.take(worker, wait=False)) is not None:
                place, request = taken
                assert place < collected + 4
                sharing.put(place, answer(request))
        ready = sharing.collect(0)
        assert ready is not None
        assert ready.reply.client == collected
    assert not sharing.plan()


def test_requests_are_read_as_late_as_possible() -> None:
    read: list[int] = []

    def lazily() -> object:
        for request in requests(100):
            read.append(request.client)
            yield request

    sharing = Sharing(lazily(), 2, lambda _: 1.0)  # type: ignore[arg-type]
    sharing.plan()
    assert len(read) == 4


@for_each("workers", [1, 2, 3, 7])
def test_answers_come_in_order_whoever_is_quicker(workers: int) -> None:
    random = python_random.Random(workers)
    sharing = Sharing(requests(100), workers, lambda request: (7 * request.client) % 13)
    order: list[int] = []

    def work(worker: int) -> None:
        while (taken := sharing.take(worker)) is not None:
            place, request = taken
            sum(range(random.randrange(20_000)))
            sharing.put(place, answer(request))

    threads = [Thread(target=work, args=(worker,)) for worker in range(workers)]
    for thread in threads:
        thread.start()
    while sharing.plan():
        ready = sharing.collect(10)
        assert ready is not None, "a deadlock"
        order.append(ready.reply.client)
    sharing.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert order == list(range(100))


def test_what_a_worker_fails_with_reaches_the_one_who_collects() -> None:
    sharing = Sharing(requests(2), 1, lambda _: 1.0)
    sharing.plan()
    sharing.fail(ZeroDivisionError("by the worker"))
    with pytest.raises(ZeroDivisionError, match="by the worker"):
        sharing.collect(10)


def test_waiting_for_an_answer_ends() -> None:
    sharing = Sharing(requests(2), 1, lambda _: 1.0)
    sharing.plan()
    assert sharing.collect(0.01) is None
