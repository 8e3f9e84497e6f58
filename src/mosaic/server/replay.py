"""Draw the images that a client replays: of the classes that it lacks, from the generators of the others."""

from collections.abc import Callable

import torch
from torch import Tensor

from mosaic.client.replay import LABELS, PIXELS, ReplaySettings
from mosaic.messages import StateDict, TrainReply
from mosaic.server.generators import GeneratorMixture


class Replay:
    """Draws what every client of a round replays, and remembers of which classes.

    A client's batches have all classes as the federation has them, as far as its own images and those of the others'
    generators allow.

    Args:
        images: everybody's generators; nothing is drawn before there are any.
        settings: how many images, and their share of a batch.
        random_of: gives a CPU generator of labels, owners and noise for a client, the same one whoever is asked first.
    """

    def __init__(
        self, images: GeneratorMixture | None, settings: ReplaySettings, random_of: Callable[[int], torch.Generator]
    ) -> None:
        self._images, self._settings, self._random_of = images, settings, random_of
        self._labels: dict[int, StateDict] = {}

    def draw(self, client: int) -> StateDict:
        """Return the tensors of :mod:`mosaic.client.replay`; none where nobody else has what this client lacks."""
        if self._images is None or self._settings.share == 0:
            return {}
        counts, random = self._images.class_counts.double(), self._random_of(client)
        mine = torch.tensor([owner == client for owner in self._images.clients])
        others = counts * ~mine[:, None]
        wanted = wanted_shares(counts[mine].sum(0), counts.sum(0), self._settings.share) * (others.sum(0) > 0)
        if wanted.sum() == 0:
            return {}
        labels = torch.multinomial(wanted, self._settings.images, replacement=True, generator=random)
        owners = torch.multinomial(others.T[labels], 1, generator=random).squeeze(1)
        drawn = [self._images.draw_from(row, labels[owners == row], random) for row in owners.unique().tolist()]
        pixels = (255 * torch.cat([part.images for part in drawn])).round().to(torch.uint8)
        self._labels[client] = {LABELS: torch.cat([part.labels for part in drawn])}
        return {PIXELS: pixels.cpu(), **self._labels[client]}

    def seen(self, reply: TrainReply) -> Tensor:
        """Return the images per class ``(C,)`` that the client's batches had, in numbers of its own images."""
        return self._settings.seen(reply.class_counts, self._labels.get(reply.client, {}))


def wanted_shares(own: Tensor, everybody: Tensor, share: float) -> Tensor:
    """Return how often each class has to be replayed, in proportion, ``max(0, p(c) - (1 - share) q(c))``.

    Args:
        own: images of the client per class, shape ``(C,)``; q are their shares.
        everybody: images of all clients per class, shape ``(C,)``, at least one; p are their shares.
        share: of a batch that is replayed.

    >>> wanted_shares(torch.tensor([4.0, 0.0]), torch.tensor([4.0, 4.0]), 0.25)
    tensor([0.0000, 0.5000])
    """
    return (everybody / everybody.sum() - (1 - share) * own / own.sum().clamp(min=1)).clamp(min=0)
