"""Images from the data sets of torchvision."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from mosaic.data.sources.base import Found, PictureSource
from mosaic.data.sources.files import expand, file_identity
from mosaic.data.sources.pictures import Block, Pictures, hold_out_test, make_pictures
from mosaic.errors import MosaicError, first_line
from mosaic.signatures import accepted_arguments

BLOCK_ROWS = 256


class TorchvisionSource(PictureSource):
    """A torchvision data set with images and integer labels, such as CIFAR10, MNIST, EMNIST, SVHN or Food101.

    The source constructs the training and the test part with ``train=True`` and ``train=False`` if the class takes
    ``train``, else with ``split=train_split`` and ``split=test_split``.

    Args:
        name: name of the class in ``torchvision.datasets``.
        root: folder of the files.
        download: whether to download missing files.
        arguments: other arguments of the class, for example ``{split: balanced}`` for EMNIST. After a
            ``target_transform`` classes are numbers.
        train_split: training split of a class that takes ``split``.
        test_split: test split of a class that takes ``split``; Imagenette has ``val``.
        test_share: for a class without a test part, such as EuroSAT: share of each class to test on.
        seed: seed of that choice.
        settings: ``resize``, ``channels``, ``memory_limit_gib`` and ``cache_dir`` of :class:`PictureSource`.
    """

    def __init__(
        self,
        name: str,
        root: str = "data",
        download: bool = False,
        arguments: dict[str, Any] | None = None,
        train_split: str = "train",
        test_split: str = "test",
        test_share: float | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.name, self.root, self.download, self.arguments = name, root, download, arguments or {}
        self.train_split, self.test_split = train_split, test_split
        self.test_share, self.seed = test_share, seed

    def find(self) -> Found:
        """Construct both parts and read their labels."""
        factory = self._factory()
        if self.test_share is None:
            train, test = (self._construct(factory, self._part(factory, train)) for train in (True, False))
            parts = self._pictures(train, "training"), self._pictures(test, "test")
        else:
            train = self._construct(factory, {})
            chosen = hold_out_test(self._labels(train), self.test_share, self.seed)
            parts = self._pictures(train, "only", chosen[0]), self._pictures(train, "only", chosen[1])
        return Found(*parts, _class_names(train), None if self.test_share is not None else _class_names(test))

    def _factory(self) -> Callable[..., Any]:
        import torchvision.datasets

        factory = getattr(torchvision.datasets, self.name, None)
        if factory is None:
            raise MosaicError(f"torchvision.datasets has no class {self.name!r}: check data.source.init_args.name")
        if not callable(factory):
            raise self._unfit("it is not a class")
        accepted, anything = accepted_arguments(factory)
        if "root" not in accepted and not anything:
            raise self._unfit("it does not take root")
        return cast(Callable[..., Any], factory)

    def _part(self, factory: Callable[..., Any], train: bool) -> dict[str, Any]:
        """Return the argument that selects the training or the test part."""
        accepted, anything = accepted_arguments(factory)
        if "train" in accepted and "train" not in self.arguments:
            return {"train": train}
        if "split" in accepted and "split" not in self.arguments:
            return {"split": self.train_split if train else self.test_split}
        if anything:
            return {"train": train}
        raise self._unfit("set data.source.init_args.test_share to hold out a test part")

    def _construct(self, factory: Callable[..., Any], part: dict[str, Any]) -> Any:
        accepted, anything = accepted_arguments(factory)
        asked = {"root": str(expand(self.root)), **part, **self.arguments}
        if "download" in accepted or anything:
            asked["download"] = self.download
        try:
            return factory(**asked)
        except Exception as error:
            if isinstance(error, TypeError) or str(error).startswith("Unknown value"):  # of an argument
                raise self._unfit(first_line(error)) from error
            raise MosaicError(
                f"{self.name} was not found under {expand(self.root).resolve()} ({first_line(error)}): put the files "
                "there (data.source.init_args.root), or use the network with --data.source.init_args.download true"
            ) from error

    def _unfit(self, reason: str) -> MosaicError:
        return MosaicError(
            f"torchvision.datasets.{self.name}: expected a class that takes root and train or split, and gives images "
            f"with integer labels ({reason}): set data.source.init_args.arguments, choose another class, or store the "
            "images for mosaic.data.NpzSource"
        )

    def _labels(self, dataset: Any) -> np.ndarray:
        """Return all labels, from the data set's own list if it has one, else picture by picture."""
        labels = listed_labels(dataset)
        if labels is None:
            labels = np.asarray([dataset[i][1] for i in range(len(dataset))])
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            raise self._unfit(f"its labels are {labels.dtype} of shape {labels.shape}")
        return labels

    def _pictures(self, dataset: Any, part: str, chosen: np.ndarray | None = None) -> Pictures:
        labels, array = self._labels(dataset), stored_array(dataset)
        folder = expand(self.root).resolve()
        indices = np.arange(len(labels) if array is None else len(array)) if chosen is None else chosen
        return make_pictures(
            labels if chosen is None else labels[chosen],
            len(indices),
            blocks=partial(_blocks, array, dataset, indices),
            origin=f"torchvision.datasets.{self.name} (data.source.init_args.name), {part} part under {folder}",
            identity=lambda: (self.name, str(folder), self.arguments, indices.tobytes(), *_identity(dataset, indices)),
            advice="fetch the files again",
        )


def _blocks(array: np.ndarray | None, dataset: Any, indices: np.ndarray) -> Iterator[Block]:
    for start in range(0, len(indices), BLOCK_ROWS):
        rows = indices[start : start + BLOCK_ROWS]
        yield [(f"item {i}", partial(_item, dataset, i)) for i in rows] if array is None else array[rows]


def _item(dataset: Any, i: int) -> Any:
    return dataset[int(i)][0]


def _identity(dataset: Any, indices: np.ndarray) -> Iterator[object]:
    """Yield the facts of the files that a data set lists; a few of its pictures where it does not."""
    pairs = _pairs(dataset)
    files = [file for file, *_ in pairs] or getattr(dataset, "_image_files", getattr(dataset, "_images", None))
    if isinstance(files, list) and len(files) == len(dataset) and all(isinstance(file, str | Path) for file in files):
        yield from file_identity(Path(files[i]) for i in indices)
        return
    for i in {0: None, len(indices) // 2: None, len(indices) - 1: None}:
        yield np.asarray(_item(dataset, indices[i])).tobytes()


def _pairs(dataset: Any) -> list[tuple[Any, ...]]:
    """Return the pairs of a file and a label that a data set lists, if any."""
    pairs = getattr(dataset, "samples", getattr(dataset, "_samples", None))
    return pairs if isinstance(pairs, list) and pairs and isinstance(pairs[0], tuple) else []


def _class_names(dataset: Any) -> tuple[str, ...] | None:
    names = getattr(dataset, "classes", None)  # USPS has none, and ImageNet tuples of synonyms
    if names is None or getattr(dataset, "target_transform", None) is not None:  # which makes other labels
        return None
    said = [", ".join(name) if isinstance(name, tuple) else str(name) for name in names]
    times = Counter(said)  # ImageNet has two cranes
    return tuple(name if times[name] == 1 else f"{name} ({label})" for label, name in enumerate(said))


def listed_labels(dataset: Any) -> np.ndarray | None:
    """Return the labels that a data set keeps in a list, or ``None``; lists that contradict the items are ignored."""
    if _relabels(dataset):
        return None
    lists = [getattr(dataset, name, None) for name in ("targets", "labels", "_labels", "y")]
    if pairs := _pairs(dataset):
        lists.append([pair[1] for pair in pairs])
    for candidate in lists:
        if candidate is None:
            continue
        labels = np.asarray(candidate)
        if labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer) and _agrees(dataset, labels):
            return labels
    return None


def _agrees(dataset: Any, labels: np.ndarray) -> bool:
    if stored_array(dataset) is not None:
        return True
    ends = {0, len(labels) - 1} if len(labels) else ()
    return len(labels) == len(dataset) and all(np.array_equal(dataset[i][1], labels[i]) for i in ends)


def _relabels(dataset: Any) -> bool:
    """Whether a data set may change the labels that it stores; torchvision puts transforms of images alone into one."""
    from torchvision.datasets.vision import StandardTransform

    both = getattr(dataset, "transforms", None)
    changes = both is not None and not isinstance(both, StandardTransform)
    return changes or getattr(dataset, "target_transform", None) is not None


def _transforms(dataset: Any) -> bool:
    """Whether items differ from what a data set stores."""
    return any(getattr(dataset, name, None) is not None for name in ("transform", "target_transform", "transforms"))


def stored_array(dataset: Any) -> np.ndarray | None:
    """Return the images of a data set that keeps them in one array, channels last, or ``None``."""
    data = getattr(dataset, "data", None)
    if data is None or isinstance(data, list) or _transforms(dataset):
        return None
    array = np.asarray(data)
    if array.dtype != np.uint8 or array.ndim not in (3, 4):
        return None
    channels_first = array.ndim == 4 and array.shape[-1] not in (1, 3) and array.shape[1] in (1, 3)
    return array.transpose(0, 2, 3, 1) if channels_first else array  # SVHN and STL10 have channels first
