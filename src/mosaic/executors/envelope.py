"""What goes to another process and comes back: a message and what its client remembers, as bytes."""

from dataclasses import dataclass

from mosaic.client.worker import Worker
from mosaic.codec import decode, encode, wire
from mosaic.executors.base import answer
from mosaic.executors.scheduling import Answer
from mosaic.messages import ClientState, Reply, Request


@wire
@dataclass(frozen=True)
class Errand:
    """A request on its way to a worker, with what the client remembers."""

    request: Request
    state: ClientState


@wire
@dataclass(frozen=True)
class Return:
    """A reply on its way back, with what the client remembers from now on."""

    reply: Reply
    state: ClientState


def run_errand(worker: Worker, data: bytes) -> bytes:
    """Answer an encoded request in the process that has received it."""
    errand = decode(data, Errand)
    return encode(Return(*answer(worker, errand.request, errand.state)))


def unpack(data: bytes) -> Answer:
    """Decode what :func:`run_errand` has made."""
    returned = decode(data, Return)
    return Answer(returned.reply, returned.state)
