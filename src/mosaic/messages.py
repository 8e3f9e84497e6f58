"""All messages between server and clients.

Each request class has one reply class. A client may also decline or fail. Messages hold tensors and plain values only,
never objects, so that they can be sent over a network.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from mosaic.codec import wire

StateDict = dict[str, Tensor]
"""Parameters and buffers of a network by name."""


@wire
@dataclass(frozen=True)
class TrainRequest:
    """Train the model on the client's own images, and on those to replay.

    Attributes:
        client: number of the client.
        round: communication round, from 1.
        model: initial weights, without those that the client keeps; empty if the client has its own model, unless the
            server has taught it.
        steps: optimiser steps.
        epochs: passes over the client's images; if positive they replace ``steps``.
        learning_rate: learning rate of the client's optimiser.
        keep: whether the client keeps its trained model, for a later request of the same round or as its own.
        upload: whether the reply contains the trained model.
        judge: whether the client evaluates the received model on its validation images before it trains.
        replay: images drawn from all generators, and their classes (:mod:`mosaic.client.replay`); empty without any.
    """

    client: int
    round: int
    model: StateDict
    steps: int
    epochs: float
    learning_rate: float
    keep: bool
    upload: bool
    judge: bool
    replay: StateDict


@wire
@dataclass(frozen=True)
class TrainReply:
    """A locally trained model with the label counts of its training images, shape ``(C,)``.

    The model lacks the tensors that the client keeps, and is empty if the request did not ask for its upload. The
    metrics are the mean ``loss``, the ``steps`` and the number of ``validation_images``. The judgement of the received
    model has the tensors of an :class:`EvaluateReply` by name, and is empty if the request did not ask for it.
    """

    client: int
    model: StateDict
    class_counts: Tensor
    metrics: dict[str, float]
    judgement: StateDict

    @property
    def num_examples(self) -> int:
        """Number of training images."""
        return int(self.class_counts.sum())


@wire
@dataclass(frozen=True)
class GeneratorRequest:
    """Learn a generator of the client's own images, guided by the model that it has kept."""

    client: int
    round: int


@wire
@dataclass(frozen=True)
class GeneratorReply:
    """A generator of one client's images: its weights and the label counts ``(C,)`` of what it has learnt from.

    The metrics are what it cost: ``attempts``, ``steps`` and ``discriminator_steps``. A client that shares them adds
    figures of its quality, and loss curves ``(steps,)``.
    """

    client: int
    generator: StateDict
    class_counts: Tensor
    metrics: dict[str, float]
    curves: dict[str, Tensor]


@wire
@dataclass(frozen=True)
class PrototypeRequest:
    """Summarise the client's images as cluster centres in the feature space of this model."""

    client: int
    round: int
    model: StateDict


@wire
@dataclass(frozen=True)
class PrototypeReply:
    """Cluster centres ``(P, F)``, their labels ``(P,)`` and the number of images of each ``(P,)``."""

    client: int
    prototypes: Tensor
    labels: Tensor
    sizes: Tensor


@wire
@dataclass(frozen=True)
class ReleaseRequest:
    """Release noisy sums over the client's images, as its privacy budget has it."""

    client: int
    round: int


@wire
@dataclass(frozen=True)
class ReleaseReply:
    """Noisy sums by class, float32: of units ``(C,)``, features ``(C, D)`` and their products, ``(C, D (D + 1) / 2)``.

    They are what :class:`~mosaic.privacy.release.Release` says, in numbers of units (images, or patients); any of them
    may be negative.
    """

    client: int
    counts: Tensor
    sums: Tensor
    moments: Tensor


@wire
@dataclass(frozen=True)
class EvaluateRequest:
    """Evaluate this model, joined with the tensors that the client keeps, on the client's validation images."""

    client: int
    round: int
    model: StateDict


@wire
@dataclass(frozen=True)
class EvaluateReply:
    """Correct and total validation images and their summed cross-entropy in nats per class, each of shape ``(C,)``."""

    client: int
    correct: Tensor
    total: Tensor
    loss: Tensor

    @property
    def judgement(self) -> StateDict:
        """The three tensors by name, as in :class:`TrainReply`."""
        return {"correct": self.correct, "total": self.total, "loss": self.loss}


@wire
@dataclass(frozen=True)
class Declined:
    """The client cannot answer this request, for the given reason; the round goes on without it."""

    client: int
    reason: str


@wire
@dataclass(frozen=True)
class Failed:
    """There is no answer: the client's code raised, or the client is late, has vanished or sent what nobody can read.

    The reason may be shown to everybody: of an exception it holds no more than the type.
    """

    client: int
    reason: str


@dataclass(frozen=True)
class Unreached(Failed):
    """The client is not there, so that nothing was sent to it; an executor says so, and no client does."""


Request = TrainRequest | GeneratorRequest | PrototypeRequest | ReleaseRequest | EvaluateRequest
Reply = TrainReply | GeneratorReply | PrototypeReply | ReleaseReply | EvaluateReply | Declined | Failed


@wire
@dataclass(frozen=True)
class ClientState:
    """Tensors that a client keeps between requests, by name; only worker and executor see them."""

    tensors: StateDict


def noting(requests: Iterable[Request], asked: deque[Request]) -> Iterator[Request]:
    """Yield requests and append them to ``asked``, so that replies can be matched to them in order."""
    for request in requests:
        asked.append(request)
        yield request


class Executor(Protocol):
    """Sends requests to clients, wherever they run."""

    def map(self, requests: Iterable[Request], deadline: float | None = None) -> Iterator[Reply]:
        """Yield one reply for each request, in the order of the requests.

        Args:
            requests: at most one for each client.
            deadline: seconds that a client has for its answer; later, :class:`Failed` stands for it.
        """
        ...
