"""The names of the classes of somebody's own datasets, and of what is made of them."""

import logging
from collections.abc import Iterable, Sequence
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

    Args:
        name: what errors call the dataset.
        dataset: which.
        given: whether labels of parts that differ are places in names that somebody has given.

    Raises:
        MosaicError: they are no text, or what the dataset is made of has different ones.
    """
    classes = getattr(dataset, "classes", None)
    if isinstance(classes, list | tuple):
        joined = [", ".join(map(str, each)) if isinstance(each, tuple) else each for each in classes]
        return names_of(joined, f"{name}.classes: {NAMES}")
    if not isinstance(dataset, ConcatDataset | Subset):
        return None
    parts = dataset.datasets if isinstance(dataset, ConcatDataset) else [dataset.dataset]
    found = {classes_of(name, part, given) for part in parts} - {None}
    if len(found) > 1 and not given:
        raise MosaicError(
            f"{name}: expected a ConcatDataset of datasets with the same classes, since each counts its labels by its "
            f"own, got {_lists(found)}: map the labels to one list, and set it as `classes` of the ConcatDataset"
        )
    return found.pop() if len(found) == 1 else None


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
        while isinstance(dataset, Subset):
            dataset = dataset.dataset
        parts = [part for part in getattr(dataset, "__dict__", {}).values() if isinstance(part, Dataset)]
        inside = {classes_of(name, part) for part in parts} - {None}
        known |= inside
        if inside and len(known) > 1:
            raise MosaicError(
                f"{name}: expected `classes` of {type(dataset).__name__}, since datasets differ in them, got none, but "
                f"inside {_lists(known)}: set them in its constructor, as self.classes = dataset.classes, or give "
                "class_names if its labels are places in them"
            )


def _lists(found: Iterable[Names]) -> str:
    return " and ".join(sorted("none" if names is None else f"({abridged(names)})" for names in found))
