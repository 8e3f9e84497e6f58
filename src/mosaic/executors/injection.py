"""Inject faults into simulated clients, to try what a run does when clients fail."""

import os
import signal
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, get_args

import torch

from mosaic.errors import MosaicError, require_share
from mosaic.messages import (
    EvaluateReply,
    GeneratorReply,
    PrototypeReply,
    ReleaseReply,
    Reply,
    Request,
    StateDict,
    TrainReply,
)
from mosaic.seeding import generator_for

Fault = Literal["", "exception", "crash", "delay", "nan", "shape", "sender", "garbage", "huge"]
FAULTS: tuple[Fault, ...] = get_args(Fault)[1:]
LOST: tuple[Fault, ...] = ("crash", "garbage")
"""Faults that leave no reply."""
GARBAGE = b"no message"
_HUGE = 2**24  # numbers of four bytes: 64 MiB
_BEYOND = 0.1  # seconds that a delay ends after the deadline


class InjectedError(RuntimeError):
    """What an injected ``exception`` raises."""


class Injector:
    """Draws which request meets which fault: by round, client, kind of request and attempt, alike for all executors.

    Args:
        shares: of the requests, by kind of fault; their sum is at most 1.

    Raises:
        MosaicError: a kind does not exist, or a share is out of its range.
    """

    def __init__(self, shares: Mapping[str, float] | None) -> None:
        given = dict(shares or {})
        if strange := sorted(given.keys() - {*FAULTS}):
            raise MosaicError(f"executor.faults: expected kinds out of {', '.join(FAULTS)}, got {strange[0]}")
        require_share("executor.faults", **given)
        if (total := sum(given.values())) > 1:
            raise MosaicError(f"executor.faults: expected shares of requests that add up to at most 1, got {total:g}")
        self._shares = {kind: given[kind] for kind in FAULTS if given.get(kind)}
        self._attempts: Counter[tuple[int, int, str]] = Counter()

    def begin(self) -> None:
        """Begin a run, in which nothing has been asked yet."""
        self._attempts.clear()

    def draw(self, request: Request) -> Fault:
        """Return the fault of the next attempt to have this request answered, nothing for most."""
        if not self._shares:
            return ""
        kind = type(request).__name__
        key = request.round, request.client, kind
        attempt = self._attempts[key]
        self._attempts[key] += 1
        random = generator_for(0, request.round, request.client, f"fault/{kind}/{attempt}")
        place = float(torch.rand((), generator=random, dtype=torch.double))
        for fault, share in self._shares.items():
            place -= share
            if place < 0:
                return fault
        return ""


def provoke(fault: Fault, deadline: float | None) -> None:
    """Do what befalls a client before it answers."""
    match fault:
        case "exception":
            raise InjectedError("a fault on purpose")
        case "delay" if deadline is not None:
            time.sleep(deadline + _BEYOND)
        case "crash":
            os.kill(os.getpid(), signal.SIGKILL)


def spoilt(reply: Reply, fault: Fault) -> Reply:
    """Return what arrives of a client's reply."""
    if fault == "sender":
        return replace(reply, client=reply.client + 1)
    if fault not in ("nan", "shape", "huge"):
        return reply
    match reply:
        case TrainReply():
            return replace(reply, model=_spoilt_tensors(reply.model, fault))
        case GeneratorReply():
            return replace(reply, generator=_spoilt_tensors(reply.generator, fault))
        case PrototypeReply():
            return replace(reply, **_spoilt_tensors({"prototypes": reply.prototypes}, fault, "prototypes"))
        case ReleaseReply():
            return replace(reply, **_spoilt_tensors({"sums": reply.sums}, fault, "sums"))
        case EvaluateReply():
            return replace(reply, **_spoilt_tensors({"loss": reply.loss}, fault, "loss"))
    return reply


def _spoilt_tensors(tensors: StateDict, fault: Fault, surplus: str = "surplus") -> dict[str, Any]:
    """Spoil the first tensor of numbers with a fraction, or add a huge one under this name."""
    if fault == "huge":
        return {**tensors, surplus: torch.zeros(_HUGE)}
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            return {**tensors, name: tensor * float("nan") if fault == "nan" else tensor[None, None]}
    return tensors
