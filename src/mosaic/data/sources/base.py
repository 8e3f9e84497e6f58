"""The interface of all sources, and how their pictures become one tensor."""

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mosaic.data.checks import check_label_range, check_names, check_shapes, checked
from mosaic.data.images import Images, ImageSet
from mosaic.data.sources.classes import agreed, numbered
from mosaic.data.sources.decoding import ColourAmongGreyError, decode_into, first_shape
from mosaic.data.sources.pictures import Pictures
from mosaic.data.sources.rules import rules_of
from mosaic.data.sources.storage import cached, fingerprint, in_memory
from mosaic.errors import MosaicError

log = logging.getLogger(__name__)

RULES_VERSION = 2
"""Version of the rules in ``rules.py``; increase it when they change, so that older caches are ignored."""


Split = Literal["train", "test"]


class Source(ABC):
    """Loads a data set."""

    @property
    def origin(self) -> str:
        """Key and class, for errors."""
        return f"data.source ({type(self).__name__})"

    @abstractmethod
    def load(self) -> ImageSet:
        """Return the whole data set.

        Raises:
            MosaicError: files are missing or have the wrong content.
        """

    def load_split(self, split: Split) -> tuple[Images, tuple[str, ...]]:
        """Return one split and the names of its classes, for a party that needs no more.

        Raises:
            MosaicError: see :meth:`load`; some subclasses do without the other split.
        """
        loaded = checked(self.load(), self.origin)
        return loaded.train if split == "train" else loaded.test, loaded.class_names


@dataclass(frozen=True)
class Found:
    """The two splits that a source has found, not yet decoded.

    Attributes:
        train: pictures to train on.
        test: pictures to test on.
        class_names: class names in the order of the training labels; ``None`` if there are none.
        test_names: class names in the order of the test labels, if the test split has its own.
    """

    train: Pictures
    test: Pictures
    class_names: tuple[str, ...] | None = None
    test_names: tuple[str, ...] | None = None

    def classified(self) -> "Found":
        """Give both splits the same classes, each with a name; see :mod:`mosaic.data.sources.classes`."""
        train, test, names = self.train, self.test, self.class_names
        labels = agreed(test.labels, self.test_names, names, test.origin)
        if names is None and self.test_names is None:
            first, labels, names = numbered(train.labels, labels, train.origin)
            train = replace(train, labels=first)
        return replace(self, train=train, test=replace(test, labels=labels), class_names=names or self.test_names)


class PictureSource(Source):
    """A source whose pictures are decoded by the rules of :mod:`mosaic.data.sources.rules`; subclasses find them.

    Args:
        resize: pixels, one number or ``[height, width]``, to which every picture is cropped and scaled; needed if
            pictures differ in size.
        channels: 1 makes all pictures grey, 3 colour; by default all are colour if any of them is.
        memory_limit_gib: largest size in GiB of decoded pixels, training and test together, that is kept in memory; a
            larger data set is decoded once into a file that is mapped into memory.
        cache_dir: folder of such files; a file is used again as long as pictures and rules stay the same.
    """

    def __init__(
        self,
        resize: int | list[int] | None = None,
        channels: Literal[1, 3] | None = None,
        memory_limit_gib: float = 4.0,
        cache_dir: str = "~/.cache/mosaic",
    ) -> None:
        if memory_limit_gib < 0:
            raise MosaicError(f"data.source.init_args.memory_limit_gib: expected at least 0, got {memory_limit_gib}")
        self.rules = rules_of(channels, resize)
        self.memory_limit_gib, self.cache_dir = memory_limit_gib, cache_dir

    @abstractmethod
    def find(self) -> Found:
        """Return labels and pictures, not yet decoded.

        Raises:
            MosaicError: files are missing or have the wrong content.
        """

    def load(self) -> ImageSet:
        """Decode all pictures."""
        found = self.find().classified()
        names = found.class_names or ()
        for split, part in (("training", found.train), ("test", found.test)):
            check_label_range(part.labels, len(names), split, part.origin)
        check_names(names, found.train.origin)  # before hours of decoding
        train, test = self._decode([found.train, found.test])
        return ImageSet(train, test, names)

    def find_split(self, split: Split) -> tuple[Pictures, tuple[str, ...] | None]:
        """Return one split, not yet decoded, and the names of its classes if there are any."""
        found = self.find()
        return (
            (found.train, found.class_names)
            if split == "train"
            else (found.test, found.test_names or found.class_names)
        )

    def load_split(self, split: Split) -> tuple[Images, tuple[str, ...]]:
        """Decode the pictures of one split."""
        part, names = self.find_split(split)
        if names is None:  # a label is its own name until the parties' names are known
            values, labels = np.unique(part.labels, return_inverse=True)
            names, part = tuple(map(str, values.tolist())), replace(part, labels=labels.astype(np.int64))
        check_label_range(part.labels, len(names), split, part.origin, fewest=1)
        check_names(names, part.origin)
        (images,) = self._decode([part])
        return images, names

    def _decode(self, parts: list[Pictures]) -> list[Images]:
        pixels = self._pixels(parts)
        return [
            Images(own, torch.from_numpy(part.labels), dict(part.groups))
            for part, own in zip(parts, pixels, strict=True)
        ]

    def _pixels(self, parts: list[Pictures]) -> list[Tensor]:
        shapes = [first_shape(part, self.rules) for part in parts]
        channels = self.rules.channels or (3 if any(shape[0] == 3 for shape in shapes) else 1)
        check_shapes((channels, *shapes[0][1:]), (channels, *shapes[-1][1:]), parts[0].origin)
        try:
            return self._store(parts, shapes, channels)
        except ColourAmongGreyError:
            return self._store(parts, shapes, 3)

    def _store(
        self, parts: list[Pictures], shapes: list[tuple[int, int, int]], channels: Literal[1, 3]
    ) -> list[Tensor]:
        full = [(len(part), channels, *shape[1:]) for part, shape in zip(parts, shapes, strict=True)]
        rules = replace(self.rules, channels=self.rules.channels or (3 if channels == 3 else None))
        size = sum(torch.Size(shape).numel() for shape in full) / 2**30
        if size <= self.memory_limit_gib:
            return [in_memory(shape, decode_into(part, rules)) for part, shape in zip(parts, full, strict=True)]
        log.info("%.1f GiB of pixels exceed data.source.init_args.memory_limit_gib: mapped from a file", size)
        return [
            cached(
                self.cache_dir,
                shape,
                fingerprint(RULES_VERSION, rules, shape, part.labels.tobytes(), *part.facts()),
                decode_into(part, rules),
            )
            for part, shape in zip(parts, full, strict=True)
        ]
