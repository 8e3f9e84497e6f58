"""Find the class names of the user's own datasets, also inside the datasets that wrap or join them."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch.utils.data import ConcatDataset, Dataset, Subset

from mosaic.data.checks import names_of
from mosaic.data.sources.classes import Names
from mosaic.errors import MosaicError, abridged

log = logging.getLogger(__name__)
NAMES = "expected a list of text, one for each class"


def classes_of(name: str, dataset: Any, given: bool = False) -> tuple[str, ...] | None:
    """Return a dataset's ``classes``, or those of the datasets that it is made of, if they have any.

    They are a list of text, or of synonyms, as ImageNet has. Labels of parts without any are places in those of others.
    Those of a dataset with a ``target_transform`` do not say what its labels mean, so they do not count.

    Args:
        name: what errors call the dataset.
        dataset: which.
        given: whether labels of parts that differ are places in names that somebody has given.

    Raises:
        MosaicError: they are no text, or what the dataset is made of has different ones.
    """
    names = _own(name, dataset)
    if names is not None and getattr(dataset, "target_transform", None) is not None:
        log.warning("%s: its target_transform may change labels, so its `classes` (%s) do not name them; "
                    "class_names do, where they are given", name, abridged(names))  # fmt: skip
        return None
    if names is not None or not isinstance(dataset, ConcatDataset | Subset):
        return names
    parts = dataset.datasets if isinstance(dataset, ConcatDataset) else [dataset.dataset]
    trusted = {classes_of(name, part, given) for part in parts} - {None}
    found = trusted.union(_inside(name, dataset) if isinstance(dataset, ConcatDataset) and not given else ())
    if len(found) > 1 and not given:
        raise MosaicError(
            f"{name}: expected a ConcatDataset of datasets with the same classes, since each counts its labels by its "
            f"own, got {_lists(found)}: map the labels to one list, and set it as `classes` of the ConcatDataset"
        )
    return trusted.pop() if len(trusted) == 1 else None


def _own(name: str, dataset: Any) -> tuple[str, ...] | None:
    classes = getattr(dataset, "classes", None)
    if not isinstance(classes, list | tuple):
        return None
    joined = [", ".join(map(str, each)) if isinstance(each, tuple) else each for each in classes]
    return names_of(joined, f"{name}.classes: {NAMES}")


def _inside(name: str, dataset: Any, seen: tuple[Any, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the ``classes`` of a dataset, or else of the datasets that it holds as attributes or in lists of them."""
    names = _own(name, dataset)
    if names is not None:
        yield names
    elif not any(dataset is each for each in seen):
        held = getattr(dataset, "__dict__", {}).values()
        several = (value if isinstance(value, list | tuple) else (value,) for value in held)
        for part in (each for values in several for each in values if isinstance(each, Dataset)):
            yield from _inside(name, part, (*seen, dataset))


def check_nameless(named: Sequence[tuple[str, Any]], own: Sequence[Names]) -> None:
    """Refuse datasets that wrap one with other classes than the rest; name those whose labels are taken as numbers.

    Args:
        named: the datasets and what errors call them.
        own: names of the classes of each dataset.

    Raises:
        MosaicError: what a dataset without names wraps has others than another dataset.
    """
    nameless = [(name, dataset) for (name, dataset), names in zip(named, own, strict=True) if names is None]
    known = set(own) - {None}
    if known and nameless:
        told = ", ".join(name for name, _ in nameless)
        log.warning("%s: no `classes`, as other datasets have: labels are taken for places in all names", told)
    for name, dataset in nameless:
        inside = set(_inside(name, dataset))
        known |= inside
        while isinstance(dataset, Subset):
            dataset = dataset.dataset
        if inside and len(known) > 1:
            raise MosaicError(
                f"{name}: expected `classes` of {type(dataset).__name__}, since datasets differ in them, got none for "
                f"its labels, but inside {_lists(known)}: set them in its constructor, as self.classes = "
                "dataset.classes, leave target_transform out, or give class_names if its labels are places in them"
            )


def _lists(found: Iterable[Names]) -> str:
    return " and ".join(sorted("none" if names is None else f"({abridged(names)})" for names in found))
