"""Clients in lockstep on one device: their networks are stacked and trained as one."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from mosaic.errors import MosaicError, require_count
from mosaic.executors.injection import Fault
from mosaic.executors.processes.environment import single_device
from mosaic.executors.serial import SerialExecutor
from mosaic.messages import Reply, Request
from mosaic.training.deadline import ending_within
from mosaic.training.signals import is_told_to_leave

log = logging.getLogger(__name__)
_LEAST_USE = 0.5  # of a lockstep's steps that its shortest client takes: the others' steps are computed for nothing


class SideBySideExecutor(SerialExecutor):
    """Trains clients of one architecture in lockstep, for networks that cost less to compute than to call.

    So are their GANs; other requests and clients of other architectures are answered one after another, and so are all
    whose optimiser looks at whole tensors, such as Adafactor, or whose objective asks its network twice. Replies agree
    with those of the other executors up to rounding, so comparisons should not mix them. Networks that draw random
    numbers, as dropout does, draw others here, and agree in accuracy only.

    Args:
        threads: CPU threads of the process; PyTorch's own choice when not given.
        clients_at_once: most clients in one lockstep; their activations are held together.
        faults: as for :class:`SerialExecutor`; a client that meets one trains alone.
    """

    def __init__(
        self, threads: int | None = None, clients_at_once: int = 10, faults: dict[str, float] | None = None
    ) -> None:
        super().__init__(threads, faults)
        require_count("executor", clients_at_once=clients_at_once)
        self.clients_at_once = clients_at_once

    def trainer(self, trainer: Mapping[str, Any]) -> Mapping[str, Any]:
        """Give every phase one device, and refuse to clip the clients' gradients together."""
        if trainer.get("gradient_clip_val"):
            raise MosaicError(
                "trainer.gradient_clip_val: expected nothing with SideBySideExecutor, which would clip the gradients "
                f"of all clients together, got {trainer['gradient_clip_val']}: leave it out, or take SerialExecutor"
            )
        if str(trainer.get("precision")) in ("16", "16-mixed"):
            raise MosaicError(
                "trainer.precision: expected no gradient scaler with SideBySideExecutor, where a client with "
                f"overflowing gradients would stop all others, got {trainer['precision']}: use bf16-mixed"
            )
        return single_device(trainer, 0, type(self).__name__)

    def map(self, requests: Iterable[Request], deadline: float | None = None) -> Iterator[Reply]:
        """Answer so many requests at a time as clients train at once, and yield the replies in order.

        A lockstep has as much time as its clients have together; beyond it they train one by one.
        """
        waiting = iter(requests)
        while window := list(islice(waiting, self.clients_at_once)):
            faults, replies = [self._injector.draw(request) for request in window], dict[int, Reply]()
            for group in self._groups(window, faults):
                with ending_within(deadline and deadline * len(group)):
                    replies |= zip(group, self._answer_together([window[place] for place in group]), strict=False)
            for place, request in enumerate(window):
                yield replies[place] if place in replies else self._reply(request, deadline, faults[place])

    def _groups(self, window: Sequence[Request], faults: Sequence[Fault]) -> Iterator[list[int]]:
        """Yield the places of requests that can be trained in lockstep, at least two in each group."""
        assert self._worker is not None, "start() comes before map()"
        places: dict[object, list[int]] = {}
        steps: dict[int, int] = {}
        for place, request in enumerate(window):
            if not faults[place] and (key := self._worker.stack_key(request)) is not None:
                places.setdefault((type(request), key), []).append(place)
                steps[place] = self._worker.steps(request)
        for alike in places.values():
            groups: list[list[int]] = []
            for place in sorted(alike, key=lambda place: -steps[place]):
                if not groups or steps[place] < _LEAST_USE * steps[groups[-1][0]]:
                    groups.append([])
                groups[-1].append(place)
            yield from (group for group in groups if len(group) > 1)

    def _answer_together(self, requests: Sequence[Any]) -> list[Reply]:
        """Train clients in lockstep and return their replies, or none if that fails: they then train one by one."""
        assert self._worker is not None
        states = [self._state(request.client) for request in requests]
        try:
            answers = list(self._worker.together(requests, states))
        except (Exception, SystemExit) as error:
            if is_told_to_leave(error):
                raise
            log.warning("clients cannot train side by side, and train one after another: %s", error)
            return []
        for before, (reply, state) in zip(states, answers, strict=True):
            self._keep_new(reply.client, before, state)
        return [reply for reply, _ in answers]
