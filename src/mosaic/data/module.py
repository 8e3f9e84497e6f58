"""The data of a federation: one data set that a partition deals out to the clients."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from mosaic.data.checks import checked, warn_of_rare_classes
from mosaic.data.device_cache import DeviceCache, Policy
from mosaic.data.holdings import Holding, check_holdings, gather
from mosaic.data.images import Images, ImageSet
from mosaic.data.partitions.base import Partition
from mosaic.data.partitions.replay import GivenPartition, write_holdings
from mosaic.data.pixels import pixel_statistics
from mosaic.data.sources import Source
from mosaic.errors import (
    MosaicError,
    is_number,
    require_a_batch,
    require_at_least_zero,
    require_below_one,
    require_choice,
    require_kinds,
    require_whole,
)
from mosaic.nets.augmentation import Augmentation
from mosaic.nets.blueprint import Blueprint, ClassifierFactory
from mosaic.ranks import own_share


@dataclass(frozen=True)
class ClientData:
    """The data of one client, without copies.

    Attributes:
        images: the whole training set; a client reads only its own indices.
        train: indices to train on.
        validation: indices to validate on.
        class_counts: images to train on per class, shape ``(C,)``.
    """

    images: Images
    train: Tensor
    validation: Tensor
    class_counts: Tensor


class FederatedDataModule(LightningDataModule):
    """Deals a data set out to clients.

    Args:
        source: loads the images; the server of clients that are elsewhere may have none.
        partition: decides which client holds which training image.
        seed: seed of the partition and of the validation split; it is independent of the run's seed.
        validation_share: share of each client's images that is held out to validate models; the test split never is.
        batch_size: batch size of local training, over all devices.
        augmentation: what local training does to images.
        mean: pixel mean per channel in ``[0, 1]``; measured on the training images by default.
        std: pixel standard deviation per channel; measured by default.
        device_cache: whether training images are copied to the GPU: ``auto`` copies them if they take at most a quarter
            of its free memory, ``always`` if they fit, ``never`` leaves them in main memory.
    """

    is_remote = False  # whether clients are on hosts of their own, and hold their images themselves

    def __init__(
        self,
        source: Source | None,
        partition: Partition,
        seed: int = 0,
        validation_share: float = 0.1,
        batch_size: int = 64,
        augmentation: Augmentation = Augmentation(),
        mean: list[float] | None = None,
        std: list[float] | None = None,
        device_cache: Policy = "auto",
    ) -> None:
        super().__init__()
        require_whole("data", seed=seed)
        require_at_least_zero("data", seed=seed)
        require_below_one("data", validation_share=validation_share)
        require_a_batch("data", batch_size)
        require_choice("data", Policy, device_cache=device_cache)
        if source is not None:
            require_kinds("data", source=(source, Source))
        if not isinstance(partition, Partition):
            raise MosaicError(
                f"data.partition: expected a partition, as mosaic.data.DirichletPartition(10, 0.1), got {partition!r}"
            )
        self.source, self.partition = source, partition
        _require_pixels(mean, std)
        self.seed, self.validation_share = int(seed), validation_share
        self.batch_size, self.augmentation = int(batch_size), augmentation
        self.mean, self.std = (None if given is None else list(map(float, given)) for given in (mean, std))
        self.device_cache = device_cache
        self._on_device = DeviceCache(device_cache)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of this class, by name, of which the same can be made again."""
        return {name: getattr(self, name) for name in signature(FederatedDataModule).parameters}

    @property
    def num_clients(self) -> int:
        """Number of clients, N; some partitions load the data to determine it."""
        return self.partition.num_clients or len(self.splits)

    @cached_property
    def images(self) -> ImageSet:
        """The data set, loaded on first use."""
        if self.source is None:
            raise MosaicError(
                "data.source: expected where the images are, got nothing: name a source of images (only `mosaic fit` "
                "for clients on hosts of their own does without)"
            )
        images = checked(self.source.load(), self.source.origin)
        warn_of_rare_classes(images.train.labels, images.class_names, self.source.origin)
        return images

    @cached_property
    def splits(self) -> list[Holding]:
        """Every client's training and validation indices."""
        train = self.images.train
        labels = train.labels.numpy().copy()  # which a partition of one's own may change
        groups = {key: values.copy() for key, values in train.groups.items()}
        return self.partition.deal(labels, self.seed, groups, self.validation_share)

    @cached_property
    def class_counts(self) -> Tensor:
        """Training images per client and class, shape ``(N, C)``."""
        labels = self.images.train.labels.numpy()
        counts = [np.bincount(labels[train], minlength=self.images.num_classes) for train, _ in self.splits]
        return torch.from_numpy(np.stack(counts))

    def most_validation(self) -> dict[int, int]:
        """Return the number of images that each client validates on, or the most that it can, by client."""
        return {client: len(validation) for client, (_, validation) in enumerate(self.splits)}

    def note_class_counts(self, client: int, class_counts: Tensor) -> None:
        """Do nothing: this process holds the images and counts them itself."""

    def training_images(self, device: torch.device) -> Images:
        """Return all training images, on the device if the cache keeps them there."""
        return self._on_device(self.images.train, device)

    def client(self, client: int) -> ClientData:
        """Return the data of one client."""
        train, validation = self.splits[client]
        counts = self.class_counts[client]
        return ClientData(self.images.train, torch.from_numpy(train), torch.from_numpy(validation), counts)

    def gathered(self) -> "FederatedDataModule":
        """Return the same data with one client that holds all images, for centralised controls."""
        whole = FederatedDataModule(**{**self.settings, "partition": GivenPartition([gather(self.splits)])})
        whole.images = self.images
        return whole

    def blueprint(self, factory: ClassifierFactory) -> Blueprint:
        """Combine a network with the public facts of this data set.

        Raises:
            MosaicError: ``mean`` or ``std`` do not fit the images.
        """
        shape = self.images.train.shape
        for key, given in (("mean", self.mean), ("std", self.std)):
            if given is not None and len(given) != shape[0]:
                raise MosaicError(f"data.{key}: expected {shape[0]} numbers, one per channel, got {len(given)}")
        mean, std = self.mean, self.std
        if mean is None or std is None:
            measured = pixel_statistics(self.images.train)
            mean, std = mean or list(measured[0]), std or list(measured[1])
        return Blueprint(factory, shape, self.images.num_classes, tuple(mean), tuple(std))

    def setup(self, stage: str) -> None:
        """Load, split and check the data before training starts.

        Raises:
            MosaicError: the data cannot be loaded or split, or a client has no image to train on.
        """
        check_holdings(self.splits, len(self.images.train), self.partition.origin)
        _ = self.class_counts

    def val_dataloader(self) -> "OrderedBatches":
        """Return the validation images of all clients.

        Raises:
            MosaicError: there are none.
        """
        if not any(len(validation) for _, validation in self.splits):
            raise MosaicError("data.validation_share: expected images to validate on, got none: raise it")
        return OrderedBatches(self.images.train, np.concatenate([validation for _, validation in self.splits]))

    def test_dataloader(self) -> "OrderedBatches":
        """Return the test images."""
        return OrderedBatches(self.images.test, np.arange(len(self.images.test)))

    predict_dataloader = test_dataloader

    def write_partition(self, path: Path) -> None:
        """Write the indices that each client trains and validates on as JSON, and how many images of which class."""
        facts = {"classes": self.images.class_names, "class_counts": self.class_counts.tolist()}
        write_holdings(path, self.splits, self.images.train.labels.numpy(), self.seed, facts)


def _require_pixels(mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    """Refuse numbers that pixels in ``[0, 1]`` cannot have as mean or standard deviation."""
    for key, given, least in (("mean", mean, 0.0), ("std", std, 1e-12)):
        given = given.tolist() if isinstance(given, Tensor | np.ndarray) else given
        if given is not None and not isinstance(given, Iterable):
            raise MosaicError(f"data.{key}: expected a list with a number for each channel, got {given!r}")
        if given is not None and not all(is_number(value) and least <= value <= 1 for value in given):
            above = "of at least" if key == "mean" else "above"
            raise MosaicError(
                f"data.{key}: expected numbers {above} 0 and at most 1, as pixels are in [0, 1], got {list(given)}: "
                "divide those of bytes by 255"
            )


class OrderedBatches:
    """Batches of the images with these indices, in order; under DDP each rank takes its share of every batch."""

    def __init__(self, images: Images, indices: Sequence[int] | np.ndarray, batch_size: int = 512) -> None:
        self._images = images
        self._batches = torch.as_tensor(np.asarray(indices)).split(batch_size) if len(indices) else ()

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self._batches:
            mine = own_share(batch)
            yield self._images.pixels[mine], self._images.labels[mine]
