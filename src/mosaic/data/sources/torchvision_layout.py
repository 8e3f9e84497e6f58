"""Where the classes of torchvision keep their labels and images, and what their constructors take."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np


def accepted_arguments(factory: Callable[..., Any]) -> tuple[set[str], bool]:
    """Return the names of a class's arguments, and whether it takes any other.

    Arguments that a constructor hands on as ``**kwargs`` are looked up in its parents.
    """
    accepted: set[str] = set()
    constructors = [
        vars(parent)["__init__"] for parent in getattr(factory, "__mro__", ()) if "__init__" in vars(parent)
    ]
    for constructor in constructors or [factory]:
        if constructor is object.__init__:
            break
        parameters = inspect.signature(constructor).parameters
        accepted |= parameters.keys()
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
            return accepted, False
    return accepted, True


def listed_labels(dataset: Any) -> np.ndarray | None:
    """Return the labels that a data set keeps in a list, or ``None``; a list that its items contradict is none."""
    pairs = getattr(dataset, "samples", getattr(dataset, "_samples", None))
    lists = [getattr(dataset, name, None) for name in ("targets", "labels", "_labels", "y")]
    if isinstance(pairs, list) and pairs and isinstance(pairs[0], tuple):
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
    if len(labels) != len(dataset):
        return False
    return all(np.array_equal(dataset[i][1], labels[i]) for i in {0, len(labels) - 1} if len(labels))


def stored_array(dataset: Any) -> np.ndarray | None:
    """Return the images that a data set keeps in one array, channels last, or ``None``."""
    data = getattr(dataset, "data", None)
    if data is None or isinstance(data, list):
        return None
    array = np.asarray(data)
    if array.dtype != np.uint8 or array.ndim not in (3, 4):
        return None
    channels_first = array.ndim == 4 and array.shape[-1] not in (1, 3) and array.shape[1] in (1, 3)
    return array.transpose(0, 2, 3, 1) if channels_first else array  # SVHN and STL10 have channels first
