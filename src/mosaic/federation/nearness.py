"""How near generated images are to real ones, where this process simulates the clients and so has their images."""

from typing import NamedTuple

from torch import Tensor

from mosaic.client.generator_quality import MOST_HELD_OUT_IMAGES, nearest_distances
from mosaic.data.module import FederatedDataModule
from mosaic.nets.inference import to_pixels


class Nearness(NamedTuple):
    """Euclidean distances between pixels in ``[0, 1]``.

    Attributes:
        distances: of every image to the nearest training image of a client, shape ``(B,)``.
        usual: median of the same for the client's held-out images; None where it has none.
    """

    distances: Tensor
    usual: float | None


class RealImages:
    """Compares generated images with those that clients train on; nothing of this reaches an algorithm.

    Args:
        data: the simulated clients' images.
    """

    def __init__(self, data: FederatedDataModule) -> None:
        self._data = data

    def __call__(self, images: Tensor, client: int) -> Nearness:
        """Return how near images of a client's generator, in ``[0, 1]``, are to the client's own."""
        own = self._data.client(client)
        train = to_pixels(own.images.pixels[own.train])
        held_out = to_pixels(own.images.pixels[own.validation[:MOST_HELD_OUT_IMAGES]])
        usual = float(nearest_distances(held_out, train).quantile(0.5)) if len(held_out) else None
        return Nearness(nearest_distances(images.cpu().float(), train), usual)
