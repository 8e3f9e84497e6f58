"""Draw the images that a client replays: of the classes that it lacks, from the generators of the others."""

import torch
from torch import Tensor

from mosaic.client.replay import LABELS, PIXELS, ReplaySettings
from mosaic.messages import StateDict
from mosaic.server.generators import GeneratorMixture


def replayed_images(
    images: GeneratorMixture, client: int, settings: ReplaySettings, random: torch.Generator
) -> StateDict:
    """Draw images so that a client's batches have all classes as the federation has them, as far as they can.

    Args:
        images: everybody's generators.
        client: whose own generator is left out.
        settings: how many, and their share of a batch.
        random: CPU generator of labels, owners and noise.

    Returns:
        The tensors of :mod:`mosaic.client.replay`; none where no other client has a class that this one lacks.
    """
    counts = images.class_counts.double()
    mine = torch.tensor([owner == client for owner in images.clients])
    others = counts * ~mine[:, None]
    wanted = wanted_shares(counts[mine].sum(0), counts.sum(0), settings.share) * (others.sum(0) > 0)
    if wanted.sum() == 0:
        return {}
    labels = torch.multinomial(wanted, settings.images, replacement=True, generator=random)
    owners = torch.multinomial(others.T[labels], 1, generator=random).squeeze(1)
    drawn = [images.draw_from(row, labels[owners == row], random) for row in owners.unique().tolist()]
    pixels = torch.cat([part.images for part in drawn])
    return {PIXELS: (pixels * 255).round().to(torch.uint8).cpu(), LABELS: torch.cat([part.labels for part in drawn])}


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
