"""Who answers which request: nothing is lost, order is kept, little is held, and speed decides nothing."""

import random as python_random
from threading import Thread

import pytest

from mosaic.executors.base import Envelope
from mosaic.executors.scheduling import NEVER, Scheduler
from mosaic.messages import ClientState, Declined, Failed, PrototypeRequest, Reply, Request
from tests.cases import for_each


def requests(count: int) -> list[Request]:
    return [PrototypeRequest(client, 1, {}) for client in range(count)]


def answer(request: Request) -> Envelope[Reply]:
    return Envelope(Declined(request.client, ""), ClientState({}))


def clients_of(scheduler: Scheduler, worker: int) -> list[int]:
    """Clients whose requests a worker could start now, in its order."""
    taken = iter(lambda: scheduler.take(worker), None)
    return [request.client for _, request in taken]


def test_the_longest_go_first_and_loads_are_even() -> None:
    """By hand: 9 to the first, 7 to the second, 4 to the second (7 < 9), 1 to the first (9 < 11)."""
    costs = {0: 1.0, 1: 9.0, 2: 4.0, 3: 7.0}
    scheduler = Scheduler(requests(4), lambda request: costs[request.client], [NEVER] * 2)
    assert scheduler.plan()
    assert clients_of(scheduler, 0) == [1, 0]
    assert clients_of(scheduler, 1) == [3, 2]


def test_equal_requests_go_round() -> None:
    scheduler = Scheduler(requests(6), lambda _: 1.0, [NEVER] * 3)
    scheduler.plan()
    assert [clients_of(scheduler, worker) for worker in range(3)] == [[0, 3], [1, 4], [2, 5]]


def test_a_worker_that_had_much_gets_less_of_the_next_block() -> None:
    """Two workers, blocks of four; the first has 90 of 93 and so nothing of the second block."""
    costs = [90.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0]
    scheduler = Scheduler(requests(8), lambda request: costs[request.client], [NEVER] * 2)
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
    scheduler = Scheduler(requests(50), lambda request: float(request.client), [NEVER] * 2)
    for collected in range(50):
        assert scheduler.plan()
        for worker in range(2):
            while (taken := scheduler.take(worker)) is not None:
                place, request = taken
                assert place < collected + 4
                scheduler.put(place, answer(request))
        ready = scheduler.collect(0)
        assert ready is not None
        assert ready[0].client == collected
    assert not scheduler.plan()


def test_requests_are_read_as_late_as_possible() -> None:
    read: list[int] = []

    def lazily() -> object:
        for request in requests(100):
            read.append(request.client)
            yield request

    scheduler = Scheduler(lazily(), lambda _: 1.0, [NEVER] * 2)  # type: ignore[arg-type]
    scheduler.plan()
    assert len(read) == 4


@for_each("workers", [1, 2, 3, 7])
def test_replies_come_in_order_whoever_is_quicker(workers: int) -> None:
    random = python_random.Random(workers)
    scheduler = Scheduler(requests(100), lambda request: (7 * request.client) % 13, [NEVER] * workers)
    order: list[int] = []

    def work(worker: int) -> None:
        while scheduler.wait_for_work(worker):
            if (taken := scheduler.take(worker)) is None:
                continue
            place, request = taken
            sum(range(random.randrange(20_000)))
            scheduler.put(place, answer(request))

    threads = [Thread(target=work, args=(worker,)) for worker in range(workers)]
    for thread in threads:
        thread.start()
    while scheduler.plan():
        ready = scheduler.collect(10)
        assert ready is not None, "a deadlock"
        order.append(ready[0].client)
    scheduler.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert order == list(range(100))


def test_what_a_worker_fails_with_reaches_the_collecting_thread() -> None:
    scheduler = Scheduler(requests(2), lambda _: 1.0, [NEVER] * 1)
    scheduler.plan()
    scheduler.close(ZeroDivisionError("by the worker"))
    with pytest.raises(ZeroDivisionError, match="by the worker"):
        scheduler.collect(10)


def test_waiting_for_a_reply_ends() -> None:
    scheduler = Scheduler(requests(2), lambda _: 1.0, [NEVER] * 1)
    scheduler.plan()
    assert scheduler.collect(0.01) is None


# deadlines


class Clock:
    """Tells the time that it is set to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def timed(count: int, due: list[float], deadline: float = 10.0) -> tuple[Scheduler, Clock]:
    clock = Clock()
    scheduler = Scheduler(requests(count), lambda _: 1.0, due, deadline, clock)
    scheduler.plan()
    return scheduler, clock


def collected(scheduler: Scheduler) -> Reply | None:
    found = scheduler.collect(0)
    return None if found is None else found[1] if isinstance(found[1], Failed) else found[1].message


def test_who_is_late_is_not_waited_for_and_what_comes_then_is_dropped() -> None:
    scheduler, clock = timed(2, [NEVER] * 2)
    assert scheduler.take(0) == (0, PrototypeRequest(0, 1, {}))
    clock.now += 9
    assert collected(scheduler) is None
    clock.now += 1
    assert collected(scheduler) == Failed(0, "no answer within 10 s")
    scheduler.put(0, answer(requests(2)[0]))
    assert collected(scheduler) is None, "it stands for no other request"


def test_an_answer_after_the_deadline_counts_as_none_although_nobody_has_looked_before() -> None:
    scheduler, clock = timed(1, [NEVER])
    scheduler.take(0)
    clock.now += 11
    scheduler.put(0, answer(requests(1)[0]))
    assert collected(scheduler) == Failed(0, "no answer within 10 s")


def test_others_take_what_was_meant_for_a_worker_that_is_late() -> None:
    due = [NEVER] * 2
    scheduler, clock = timed(4, due)
    assert clients_of(scheduler, 1) == [1, 3]
    due[1] = NEVER  # done
    assert scheduler.take(0) == (0, PrototypeRequest(0, 1, {}))
    assert scheduler.take(1) is None
    clock.now += 11
    assert scheduler.take(1) == (2, PrototypeRequest(2, 1, {}))


def test_others_take_what_was_meant_for_a_worker_that_starts_again() -> None:
    scheduler = Scheduler(requests(4), lambda _: 1.0, [NEVER] * 2)
    scheduler.plan()
    assert clients_of(scheduler, 1) == [1, 3]
    scheduler.give_way(0)
    assert clients_of(scheduler, 1) == [0, 2]


def test_what_waits_for_a_worker_that_starts_again_is_not_late() -> None:
    """However long that takes: its time begins when it is begun."""
    due = [NEVER]
    scheduler, clock = timed(2, due)
    scheduler.give_way(0)
    clock.now += 1000
    assert collected(scheduler) is None
    due[0] = NEVER
    assert scheduler.take(0) == (0, PrototypeRequest(0, 1, {}))
    clock.now += 10
    assert collected(scheduler) == Failed(0, "no answer within 10 s")


def test_where_all_workers_are_late_nobody_waits_for_ever() -> None:
    """The only worker is late since 105 with what a scheduler before has given it."""
    scheduler, clock = timed(2, [105.0])
    clock.now = 114
    assert collected(scheduler) is None
    clock.now = 115
    assert collected(scheduler) == Failed(0, "no answer within 10 s")
    assert collected(scheduler) == Failed(1, "no answer within 10 s")
    assert scheduler.take(0) is None
    assert not scheduler.plan()


def test_without_a_deadline_nobody_is_late() -> None:
    scheduler, clock = timed(1, [NEVER], deadline=NEVER)
    scheduler.take(0)
    clock.now = 1e9
    assert collected(scheduler) is None
    scheduler.put(0, answer(requests(1)[0]))
    assert collected(scheduler) == Declined(0, "")
