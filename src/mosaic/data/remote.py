"""The data of one party of a deployment: a client has its own images, the server at most a test set."""

import hashlib
import json
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mosaic.data.holdings import Holding, hold_out
from mosaic.data.images import Images, ImageSet
from mosaic.data.module import FederatedDataModule
from mosaic.data.partitions.remote import Remote
from mosaic.data.sources.base import Split
from mosaic.data.sources.classes import agreed
from mosaic.data.sources.storage import fingerprint
from mosaic.disk import write_whole
from mosaic.errors import MosaicError
from mosaic.nets.blueprint import Blueprint, ClassifierFactory

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of the pixels per channel."""


class RemoteData(FederatedDataModule):
    """The data of clients on hosts of their own.

    The server knows what the configuration says and, per client and class, how many images each client says that it
    trains on. Its own images, if it has any, are the test set.

    Args:
        given: the ``data:`` section; its partition says what all parties know.
        client: which client this process answers for; ``None`` on the server.
    """

    is_remote = True
    partition: Remote

    def __init__(self, given: FederatedDataModule, client: int | None = None) -> None:
        super().__init__(**given.settings)
        if client is not None and not 0 <= client < self.num_clients:
            raise MosaicError(f"--client: expected a number in 0..{self.num_clients - 1}, got {client}")
        if client is not None and given.source is None:
            raise MosaicError(f"data.source: expected where the images of client {client} are, got nothing: set it")
        self.own_client = client
        self._said = torch.zeros(self.num_clients, len(self.partition.class_names), dtype=torch.long)

    @property
    def statistics(self) -> Statistics | None:
        """Mean and standard deviation of the pixels per channel, if the configuration gives them."""
        if (self.mean is None) != (self.std is None):
            raise MosaicError("data.mean, data.std: expected both or none where clients are remote, got one of them")
        return None if self.mean is None or self.std is None else (tuple(self.mean), tuple(self.std))

    @cached_property
    def images(self) -> ImageSet:
        """The images of this party: those of its client to train on, or those of the server to test on."""
        names, nothing = self.partition.class_names, _no_images(self.partition.image_shape)
        if self.source is None:
            return ImageSet(nothing, nothing, names)
        if self.own_client is None:
            return ImageSet(nothing, self._own("test"), names)
        return ImageSet(self._own("train"), nothing, names)

    @cached_property
    def splits(self) -> list[Holding]:
        """Training and validation indices of this process's client, and nothing for all others."""
        holdings = [Holding(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))] * self.num_clients
        if self.own_client is not None:
            labels = self.images.train.labels.numpy()
            seed = (self.seed, self.own_client)
            holdings[self.own_client] = hold_out(labels, np.arange(len(labels)), self.validation_share, seed)
        return holdings

    @cached_property
    def fingerprint(self) -> str:
        """A fingerprint of the client's images, by which what it remembers is told from another's."""
        images = self.images.train
        parts = [part.contiguous().numpy().data for part in (images.pixels, images.labels)]
        return fingerprint(images.shape, *(hashlib.sha256(part).digest() for part in parts))

    @property
    def class_counts(self) -> Tensor:
        """Training images per client and class, shape ``(N, C)``, as far as this process has been told."""
        return self._said

    def most_validation(self) -> dict[int, int]:
        """Return the most images that each client can hold out, by what it says that it trains on."""
        share = self.validation_share
        most = (share * (self._said + 1) / (1 - share) + 1).floor() * (self._said > 0) if share else self._said * 0
        return {client: int(count) for client, count in enumerate(most.sum(1)) if self._said[client].any()}

    def note_class_counts(self, client: int, class_counts: Tensor) -> None:
        """Note how many images of each class a client says that it trains on."""
        self._said[client] = class_counts

    def unused(self) -> Images:
        """Return images of this client that it uses for nothing, which are those of its source's test split.

        Raises:
            MosaicError: there are none.
        """
        try:
            return self._own("test")
        except MosaicError as error:
            raise MosaicError(
                f"--audit: expected a test split of data.source beside a privacy budget, under which all other images "
                f"are released, got none ({error}): add one, or leave --audit out"
            ) from error

    def blueprint(self, factory: ClassifierFactory) -> Blueprint:
        """Combine a network with the public facts that all parties have agreed on."""
        if self.mean is None or self.std is None:
            raise MosaicError("data.mean, data.std: expected numbers for each channel, got none: set them")
        return super().blueprint(factory)

    def setup(self, stage: str) -> None:
        """Load the images of this party.

        Raises:
            MosaicError: they cannot be loaded, do not fit what all have agreed on, or a client has none to train on.
        """
        _ = self.images
        if self.own_client is None:
            return
        train = self.splits[self.own_client].train
        if len(train) == 0:
            raise MosaicError("data.source: expected images to train on, got none: check the source")
        labels = self.images.train.labels[torch.from_numpy(train)]
        self.note_class_counts(self.own_client, labels.bincount(minlength=self.images.num_classes))

    def write_partition(self, path: Path) -> None:
        """Write what clients have said of their images as JSON."""
        said = {"classes": self.images.class_names, "class_counts": self.class_counts.tolist()}
        write_whole(path, f"{json.dumps(said)}\n".encode())

    def _own(self, split: Split) -> Images:
        assert self.source is not None
        found, names = self.source.load_split(split)
        if found.shape != self.partition.image_shape:
            raise MosaicError(
                f"data.source: expected images of {_size(self.partition.image_shape)} (data.partition.image_shape), "
                f"got {_size(found.shape)}: set data.source.init_args.resize and channels"
            )
        return Images(found.pixels, self._agreed(found.labels, names), found.groups)

    def _agreed(self, labels: Tensor, names: tuple[str, ...]) -> Tensor:
        """Renumber labels from positions in this party's class names to positions in those of all parties."""
        reference = self.partition.class_names
        unnamed = all(name.isdecimal() and int(name) < len(reference) for name in names)
        if unnamed and not any(name.isdecimal() for name in reference):
            return torch.tensor([int(name) for name in names])[labels]  # a file without names holds agreed numbers
        return torch.from_numpy(agreed(labels.numpy(), names, reference, "data.source, data.partition.class_names"))


def _no_images(shape: tuple[int, int, int]) -> Images:
    return Images(torch.zeros(0, *shape, dtype=torch.uint8), torch.zeros(0, dtype=torch.long))


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
