"""What happens when Ray actors end, with a Ray that is made up here."""

import os
import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from mosaic.executors.base import WorkerLostError
from mosaic.executors.ray.actors import ActorPool
from mosaic.training.signals import Preempted, heeding_signals


class ActorDied(Exception):  # Ray's name
    pass


class Other(Exception):
    pass


class Actor:
    """Answers with its own name, unless it is dead or the request is poison."""

    def __init__(self, name: str, node: str, started: bool = True) -> None:
        self.name, self.place, self.started, self.dead = name, node, started, False
        self.answer = SimpleNamespace(remote=lambda request: lambda: self._answer(request))
        self.node = SimpleNamespace(remote=lambda: self._node)

    def _answer(self, request: bytes) -> bytes:
        if request == b"poison":
            self.dead = True
        if self.dead:
            raise ActorDied
        return self.name.encode()

    def _node(self) -> str:
        if self.dead:
            raise ActorDied("in __init__:\nFileNotFoundError: no images here")
        return self.place


class MadeUpRay:
    exceptions = SimpleNamespace(
        RayActorError=ActorDied, WorkerCrashedError=Other, NodeDiedError=Other, ObjectLostError=Other
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


def pool_of(*actors: Actor) -> tuple[ActorPool, MadeUpRay]:
    """A pool that starts these, the first ones at once; it has as many workers as actors that have started."""
    waiting = iter(actors)
    start: Callable[[], Actor] = lambda: next(waiting)  # noqa: E731
    ray = MadeUpRay()
    return ActorPool(ray, start, sum(actor.started for actor in actors)), ray


def test_a_request_goes_to_another_node_if_its_actor_ends() -> None:
    """Its neighbour on the same node has probably ended too."""
    actors = [Actor("a", "north"), Actor("b", "north"), Actor("c", "south"), Actor("fresh", "south", started=False)]
    pool, _ = pool_of(*actors)
    actors[0].dead = True
    assert pool.answer(0, b"request", client=7) == b"c"


def test_another_actor_answers_until_the_replacement_has_started() -> None:
    first, second, fresh = Actor("a", "here"), Actor("b", "here"), Actor("fresh", "here", started=False)
    pool, _ = pool_of(first, second, fresh)
    first.dead = True
    assert [pool.answer(0, b"request", client=7) for _ in range(2)] == [b"b", b"b"]
    fresh.started = True
    assert [pool.answer(0, b"request", client=7) for _ in range(2)] == [b"fresh", b"fresh"]
    assert pool.answer(1, b"request", client=8) == b"b"


def test_a_single_worker_waits_for_its_replacement() -> None:
    first, fresh = Actor("a", "here"), Actor("fresh", "here", started=False)
    pool, _ = pool_of(first, fresh)
    first.dead = True
    assert pool.answer(0, b"request", client=7) == b"fresh"


def test_a_client_that_ends_two_actors_is_named() -> None:
    pool, _ = pool_of(Actor("a", "n"), Actor("b", "n"), Actor("fresh", "n", started=False))
    with pytest.raises(WorkerLostError, match="workers 0 and 1 ended while they worked for client 7"):
        pool.answer(0, b"poison", client=7)


def test_other_errors_are_not_tried_again() -> None:
    actor = Actor("a", "here")
    pool, _ = pool_of(actor, Actor("b", "here"))
    actor.answer = SimpleNamespace(remote=lambda request: lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        pool.answer(0, b"request", client=7)


def test_all_are_stopped_replacements_too() -> None:
    first, second, fresh = Actor("a", "here"), Actor("b", "here"), Actor("fresh", "here", started=False)
    pool, ray = pool_of(first, second, fresh)
    first.dead = True
    pool.answer(0, b"request", client=7)
    pool.stop()
    assert {"b", "fresh"} <= set(ray.killed)


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
    actor = Actor("a", "here", started=False)
    pool = ActorPool(BusyRay(actor, signalled=False), lambda: actor, 1)
    assert [record.getMessage() for record in caplog.records] == [
        "0 of 1 Ray workers have started; the others load their data, or wait for CPUs or GPUs that are taken: see ray "
        "status"
    ]
    assert pool.answer(0, b"request", client=7) == b"a"


def test_who_is_asked_to_leave_waits_no_longer_and_leaves_no_actor() -> None:
    actor = Actor("a", "here", started=False)
    ray = BusyRay(actor, signalled=True)
    with pytest.raises(Preempted), heeding_signals():
        ActorPool(ray, lambda: actor, 1)
    assert ray.killed == ["a"]
    assert ray.waited == 1
