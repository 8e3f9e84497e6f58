"""What happens when Ray actors end, with a Ray that is made up here."""

import os
import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from mosaic.executors.base import WorkerLostError
from mosaic.executors.parallel import WorkerEndedError
from mosaic.executors.ray.actors import ActorPool
from mosaic.training.signals import Preempted, heeding_signals


class ActorDied(Exception):  # Ray's name
    pass


class OutOfMemory(Exception):  # which is no kind of the other
    pass


class Other(Exception):
    pass


class Actor:
    """Answers with its own name, unless it is dead or the request is poison."""

    def __init__(self, name: str, started: bool = True, end: type[Exception] = ActorDied) -> None:
        self.name, self.started, self.dead, self.end = name, started, False, end
        self.answer = SimpleNamespace(remote=lambda request: lambda: self._answer(request))
        self.ready = SimpleNamespace(remote=lambda: self._ready)

    def _answer(self, request: bytes) -> bytes:
        if request == b"poison":
            self.dead = True
        if self.dead:
            raise self.end
        return self.name.encode()

    def _ready(self) -> None:
        if self.dead:
            raise ActorDied("in __init__:\nFileNotFoundError: no images here")


class MadeUpRay:
    exceptions = SimpleNamespace(
        RayActorError=ActorDied,
        WorkerCrashedError=Other,
        NodeDiedError=Other,
        ObjectLostError=Other,
        OutOfMemoryError=OutOfMemory,
    )

    def __init__(self) -> None:
        self.killed: list[str] = []
        self.waited = 0

    def get(self, what: Any) -> Any:
        return [one() for one in what] if isinstance(what, list) else what()

    def wait(self, what: list[Any], timeout: float, num_returns: int = 1) -> tuple[list[Any], list[Any]]:
        self.waited += 1
        ready = [one for one in what if one.__self__.started]
        return ready, [one for one in what if one not in ready]

    def kill(self, actor: Actor) -> None:
        self.killed.append(actor.name)


def pool_of(*actors: Actor, size: int) -> tuple[ActorPool, MadeUpRay]:
    """A pool of so many workers that starts these, one after the other."""
    waiting = iter(actors)
    start: Callable[[], Actor] = lambda: next(waiting)  # noqa: E731
    ray = MadeUpRay()
    return ActorPool(ray, start, size), ray


@pytest.mark.parametrize("end", [ActorDied, OutOfMemory])
def test_an_actor_that_ends_is_started_again(end: type[Exception]) -> None:
    pool, _ = pool_of(Actor("a", end=end), Actor("b"), Actor("fresh"), size=2)
    with pytest.raises(WorkerEndedError):
        pool.answer(0, b"poison")
    assert pool.answer(1, b"request") == b"b"
    pool.start_again(0)
    assert pool.answer(0, b"request") == b"fresh"


def test_an_actor_that_does_not_start_again_ends_the_run() -> None:
    broken = [Actor("fresh") for _ in range(3)]
    pool, _ = pool_of(Actor("a"), *broken, size=1)
    for actor in broken:
        actor.dead = True
    with pytest.raises(WorkerLostError, match="Ray worker 0 has ended, and does not start again"):
        pool.start_again(0)


def test_other_errors_are_not_taken_for_an_end() -> None:
    actor = Actor("a")
    pool, _ = pool_of(actor, Actor("b"), size=2)
    actor.answer = SimpleNamespace(remote=lambda request: lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        pool.answer(0, b"request")


def test_all_are_stopped_those_started_again_too() -> None:
    pool, ray = pool_of(Actor("a"), Actor("b"), Actor("fresh"), size=2)
    pool.start_again(0)
    pool.stop()
    assert ray.killed == ["fresh", "b"]


def test_who_waits_for_an_actor_to_start_again_leaves_when_all_are_stopped() -> None:
    fresh = Actor("fresh", started=False)
    pool, ray = pool_of(Actor("a"), fresh, size=1)
    pool.stop()
    pool.start_again(0)
    assert ray.waited == 2, "once at the start, and once again"


class BusyRay(MadeUpRay):
    """Has room for nobody, until it has been asked three times, or a signal comes."""

    def __init__(self, actor: Actor, signalled: bool) -> None:
        super().__init__()
        self.actor, self.signalled = actor, signalled

    def wait(self, what: list[Any], timeout: float, num_returns: int = 1) -> tuple[list[Any], list[Any]]:
        answer = super().wait(what, timeout, num_returns)
        self.actor.started = self.waited > 2
        if self.signalled:
            os.kill(os.getpid(), signal.SIGTERM)
        return answer


def test_a_busy_cluster_is_waited_for_and_the_log_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mosaic.executors.ray.actors.SECONDS_OF_SILENCE", 0.0)
    actor = Actor("a", started=False)
    pool = ActorPool(BusyRay(actor, signalled=False), lambda: actor, 1)
    assert [record.getMessage() for record in caplog.records] == [
        "0 of 1 Ray workers have started; the others load their data, or wait for CPUs or GPUs that are taken: see ray "
        "status"
    ]
    assert pool.answer(0, b"request") == b"a"


def test_who_is_asked_to_leave_waits_no_longer_and_leaves_no_actor() -> None:
    actor = Actor("a", started=False)
    ray = BusyRay(actor, signalled=True)
    with pytest.raises(Preempted), heeding_signals():
        ActorPool(ray, lambda: actor, 1)
    assert ray.killed == ["a"]
    assert ray.waited == 1
