"""Draw the generated images that the clients of one round replay."""

import torch

from mosaic.client.replay import LABELS, PIXELS, ReplaySettings
from mosaic.messages import StateDict
from mosaic.nets.inference import to_bytes
from mosaic.server.generators import GeneratorMixture


def replayed_images(images: GeneratorMixture, settings: ReplaySettings, random: torch.Generator) -> StateDict:
    """Return the tensors of :mod:`mosaic.client.replay`, the same for all clients.

    Args:
        images: everybody's generators.
        settings: how many images.
        random: CPU generator of owners, labels and noise.
    """
    drawn = images.draw(settings.images, random)
    return {PIXELS: to_bytes(drawn.images).cpu(), LABELS: drawn.labels.cpu()}
