"""How near generated images are to real ones, where this process simulates the clients and so has their images."""

from torch import Tensor

from mosaic.client.generator_quality import MOST_HELD_OUT_IMAGES, nearest_distances
from mosaic.data.module import FederatedDataModule
from mosaic.nets.inference import to_pixels


def nearness(data: FederatedDataModule, images: Tensor, client: int) -> tuple[Tensor, float | None]:
    """Return Euclidean distances between pixels in ``[0, 1]``; nothing of this reaches an algorithm.

    Args:
        data: the simulated clients' images.
        images: of the client's generator, shape ``(B, channels, H, W)``.
        client: with whose training images they are compared.

    Returns:
        Of every image to the nearest training image, shape ``(B,)``; the median of the same for the client's held-out
        images, None where it has none.
    """
    own = data.client(client)
    train = to_pixels(own.images.pixels[own.train])
    held_out = to_pixels(own.images.pixels[own.validation[:MOST_HELD_OUT_IMAGES]])
    usual = float(nearest_distances(held_out, train).quantile(0.5)) if len(held_out) else None
    return nearest_distances(images.cpu().float(), train), usual
