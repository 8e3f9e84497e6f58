"""Draw the generated images that clients replay in one round."""

from functools import cached_property

import torch
from torch import Tensor

from mosaic.client.replay import LABELS, PIXELS, ReplaySettings
from mosaic.messages import StateDict, TrainReply
from mosaic.server.generators import GeneratorMixture


class Replay:
    """What the clients of one round replay: the same images for all.

    Args:
        images: everybody's generators; nothing is replayed before there are any.
        settings: how many images, and their share of a batch.
        random: CPU generator of owners, labels and noise.
    """

    def __init__(self, images: GeneratorMixture | None, settings: ReplaySettings, random: torch.Generator) -> None:
        self._images, self._settings, self._random = images, settings, random

    @cached_property
    def tensors(self) -> StateDict:
        """The tensors of :mod:`mosaic.client.replay`, drawn when they are first asked for."""
        if self._images is None or self._settings.share == 0:
            return {}
        drawn = self._images.draw(self._settings.images, self._random)
        return {PIXELS: (255 * drawn.images).round().to(torch.uint8).cpu(), LABELS: drawn.labels.cpu()}

    def seen(self, reply: TrainReply) -> Tensor:
        """Return the images per class ``(C,)`` that the client's batches had, in numbers of its own images."""
        return self._settings.seen(reply.class_counts, self.tensors)
