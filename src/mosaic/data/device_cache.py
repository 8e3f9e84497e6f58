"""Keep the training images on the GPU if they fit."""

from typing import Literal

import torch

from mosaic.data.images import Images
from mosaic.errors import MosaicError
from mosaic.transfer import send

Policy = Literal["auto", "always", "never"]
SHARE = 0.25
"""Largest share of a GPU's free memory that ``auto`` uses; networks and activations need the rest."""


class DeviceCache:
    """Copies images to the GPU once, so that the CPU does not have to select and send every batch.

    CIFAR-10 takes 150 MB. Each process on a shared GPU has its own copy.

    Args:
        policy: see :class:`~mosaic.data.module.FederatedDataModule`.
    """

    def __init__(self, policy: Policy = "auto") -> None:
        self._policy = policy
        self._kept: tuple[Images, torch.device, Images] | None = None

    def __call__(self, images: Images, device: torch.device) -> Images:
        """Return the copy on the device, or the images themselves if they stay in main memory.

        Raises:
            MosaicError: the policy is ``always`` and the images do not fit.
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
                f"data.device_cache: expected at most {free / 2**30:.1f} GiB, the free memory of {device}, got "
                f"{size / 2**30:.1f} GiB of images: set --data.device_cache auto"
            )
        if self._policy == "auto" and size > SHARE * free:
            return images
        return Images(send(images.pixels, device), send(images.labels, device), images.groups)
