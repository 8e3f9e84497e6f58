"""Introductions and envelopes in which the server and a client's resident process exchange mosaic's messages."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

from mosaic.codec import wire

Message = TypeVar("Message")
LARGEST_HEADER = 2**23
"""Bytes that names and plain values of a message may take: about 80,000 tensors."""


@wire
@dataclass(frozen=True)
class Introduce:
    """Ask a client who it is.

    Attributes:
        wants_sums: whether it is to say the sums of its pixels, since the configuration gives no mean.
    """

    wants_sums: bool


@wire
@dataclass(frozen=True)
class Introduction:
    """Say who a client is, and what it trains on.

    Attributes:
        client: its number.
        agreement: of its configuration, see :func:`~mosaic.executors.agreement.agreement`.
        class_counts: images to train on per class, shape ``(C,)``.
        pixel_sums: number, sum and sum of squares of its training pixels in ``[0, 1]`` per channel, shape ``(3, c)``,
            float64; empty unless it was asked for.
    """

    client: int
    agreement: str
    class_counts: Tensor
    pixel_sums: Tensor


@wire
@dataclass(frozen=True)
class Asked(Generic[Message]):
    """A message to a client, with all that it must know of the run, since neither side may remember the other.

    Attributes:
        run: name of the run, 32 hexadecimal digits, or nothing before there is one.
        session: name of the server's process. A new one may have gone back to an earlier round.
        after: the last finished round when the session began.
        agreement: of the server's configuration.
        mean: pixel mean per channel; empty while nobody knows it.
        std: pixel standard deviation per channel, likewise.
        message: the request.
    """

    run: str
    session: str
    after: int
    agreement: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    message: Message


@dataclass(frozen=True)
class Terms:
    """What the server knows of a federation whose clients are elsewhere.

    Attributes:
        agreement: of its configuration.
        num_clients: N.
        num_classes: C.
        image_shape: channels, height and width of every image.
        mean: pixel mean per channel; empty while nobody knows it.
        std: pixel standard deviation per channel, likewise.
        private: whether clients have privacy budgets, and say nothing of how many images they hold.
    """

    agreement: str
    num_clients: int
    num_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    private: bool = False
