"""The partition of clients on hosts of their own."""

import numpy as np

from mosaic.data.partitions.base import Groups, Partition
from mosaic.errors import MosaicError


class Remote(Partition):
    """Clients on hosts of their own hold what they hold; nothing is dealt out.

    What all parties must know of images that nobody can look at together stands here.

    Args:
        num_clients: N.
        class_names: names of the C classes, in the order of the labels.
        image_shape: channels, height and width of every image.
    """

    num_clients: int

    def __init__(self, num_clients: int, class_names: list[str], image_shape: list[int]) -> None:
        super().__init__(num_clients)
        if len(class_names) < 2 or len(set(class_names)) < len(class_names):
            raise MosaicError(
                f"data.partition.class_names: expected at least two different names, got {class_names}: list each class"
            )
        if len(image_shape) != 3 or image_shape[0] not in (1, 3) or min(image_shape) < 1:
            raise MosaicError(
                "data.partition.image_shape: expected channels (1 or 3), height and width, for example [1, 28, 28], "
                f"got {image_shape}"
            )
        self.class_names, self.image_shape = tuple(class_names), (image_shape[0], image_shape[1], image_shape[2])

    def split(self, labels: np.ndarray, seed: int, groups: Groups) -> list[np.ndarray]:
        """Refuse, since nobody holds all images."""
        raise MosaicError(
            f"{self.origin}: these clients hold their images themselves, so they cannot be dealt out, compared or "
            "simulated here: run `mosaic fit` with an executor for remote clients, such as "
            "mosaic.executors.FlowerExecutor"
        )
