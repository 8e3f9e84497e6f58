"""Keep a data set on the device that trains on it, where it fits."""

from typing import Literal

import torch

from mosaic.data.images import Images
from mosaic.errors import MosaicError
from mosaic.transfer import send

Policy = Literal["auto", "always", "never"]
SHARE = 0.25
"""Of a GPU's free memory; what is left is for networks and what flows through them."""


class DeviceCache:
    """Copies images to a device once, so that no batch of a step has to be picked and sent by the CPU.

    CIFAR-10 takes 150 MB. Processes that share a GPU have a copy each.

    Args:
        policy: ``auto`` keeps images on a GPU if they take a quarter of its free memory at most, ``always`` wherever
            they fit, ``never`` leaves them in main memory.
    """

    def __init__(self, policy: Policy = "auto") -> None:
        self._policy = policy
        self._kept: tuple[Images, torch.device, Images] | None = None

    def __call__(self, images: Images, device: torch.device) -> Images:
        """Return images on the device, or as they are where they stay in main memory.

        Raises:
            MosaicError: they are to lie on the device and do not fit.
        """
        if device.type != "cuda" or self._policy == "never":
            return images
        if self._kept is None or self._kept[0] is not images or self._kept[1] != device:
            self._kept = images, device, self._copied(images, device)
        return self._kept[2]

    def _copied(self, images: Images, device: torch.device) -> Images:
        size, (free, _) = images.pixels.nbytes + images.labels.nbytes, torch.cuda.mem_get_info(device)
        if self._policy == "always" and size > free:
            raise MosaicError(
                f"data.device_cache: expected images that fit into the {free / 2**30:.1f} GiB that are free on "
                f"{device}, got {size / 2**30:.1f} GiB: set --data.device_cache auto"
            )
        if self._policy == "auto" and size > SHARE * free:
            return images
        return Images(send(images.pixels, device), send(images.labels, device), images.groups)
