"""Everything that crosses between server and client, and nothing else does.

There is one reply class for each request class; beside them stand the two ways in which a client can say no. Messages
hold tensors and plain numbers, never objects, so the same bytes could cross a network.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mosaic.codec import wire

StateDict = dict[str, Tensor]
"""Parameters and buffers of a network by name."""


@wire
@dataclass(frozen=True)
class TrainRequest:
    """Train the model on the client's own images.

    Attributes:
        client: who is asked.
        round: communication round, from 1.
        model: weights to start from, without those that the client keeps; empty for one with a model of its own.
        steps: optimiser steps.
        epochs: passes over the client's images; when positive they replace ``steps``.
        learning_rate: rate of the client's optimiser.
        keep: whether the client keeps its trained model, because a later request of the same round needs it.
        upload: whether the reply carries the trained model.
        judge: whether the client judges the received model on its validation images before it trains.
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


@wire
@dataclass(frozen=True)
class TrainReply:
    """A locally trained model with the label counts of the images that it was trained on, shape ``(C,)``.

    The model lacks what the client keeps to itself; it is empty where its upload was not asked for. Its metrics tell
    the mean ``loss``, the ``steps`` and how many ``validation_images`` the client has. The judgement of the received
    model is that of an :class:`EvaluateReply`, by name; it is empty where none was asked for.
    """

    client: int
    model: StateDict
    class_counts: Tensor
    metrics: dict[str, float]
    judgement: StateDict

    @property
    def num_examples(self) -> int:
        """Images that the model was trained on."""
        return int(self.class_counts.sum())


@wire
@dataclass(frozen=True)
class GeneratorRequest:
    """Train a generator of the client's own images, guided by the model that it uploaded last."""

    client: int
    round: int


@wire
@dataclass(frozen=True)
class GeneratorReply:
    """A generator of one client's images: weights, label counts ``(C,)``, and loss curves ``(steps,)``."""

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
    """Cluster centres ``(P, F)``, their labels ``(P,)`` and how many images each stands for ``(P,)``."""

    client: int
    prototypes: Tensor
    labels: Tensor
    sizes: Tensor


@wire
@dataclass(frozen=True)
class EvaluateRequest:
    """Judge this model, with what the client keeps of its own, on the client's validation images."""

    client: int
    round: int
    model: StateDict


@wire
@dataclass(frozen=True)
class EvaluateReply:
    """Per class, each ``(C,)``: correct and total validation images, and their summed cross-entropy in nats."""

    client: int
    correct: Tensor
    total: Tensor
    loss: Tensor

    @property
    def judgement(self) -> StateDict:
        """The three by name, as a :class:`TrainReply` has them."""
        return {"correct": self.correct, "total": self.total, "loss": self.loss}


@wire
@dataclass(frozen=True)
class Declined:
    """The client cannot answer this request and says why; the round goes on without it."""

    client: int
    reason: str


@wire
@dataclass(frozen=True)
class Failed:
    """The client's code raised; the round goes on without it, unless that befalls too many."""

    client: int
    traceback: str


Request = TrainRequest | GeneratorRequest | PrototypeRequest | EvaluateRequest
Reply = TrainReply | GeneratorReply | PrototypeReply | EvaluateReply | Declined | Failed


@wire
@dataclass(frozen=True)
class ClientState:
    """What a client remembers between requests: tensors by name. It goes between worker and executor only."""

    tensors: StateDict


def are_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether there is neither infinity nor NaN in any of them; no mask as large as a tensor is made."""
    return bool(extremes(tensors).isfinite().all())


def extremes(tensors: Iterable[Tensor]) -> Tensor:
    """Return the smallest and the largest number of each tensor of floats, shape ``(2 n,)``; NaN for one with NaN."""
    found = [torch.stack(tensor.aminmax()) for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    return torch.cat(found) if found else torch.zeros(0)


def noting(requests: Iterable[Request], asked: deque[Request]) -> Iterator[Request]:
    """Pass requests on and keep them, for their replies to come in the same order."""
    for request in requests:
        asked.append(request)
        yield request


class Executor(Protocol):
    """Carries requests to clients, wherever they run."""

    def map(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """Yield one reply for each request, in the order of the requests."""
        ...
