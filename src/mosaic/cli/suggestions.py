"""Suggest the class or setting nearest to a misspelt name."""

import inspect
import sys
import typing
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pkgutil import resolve_name
from types import NoneType
from typing import Any

_HOMES = {
    "algorithm": "mosaic.algorithms",
    "executor": "mosaic.executors",
    "generation": "mosaic.generation",
    "source": "mosaic.data",
    "partition": "mosaic.data",
    "net": "mosaic.nets",
    "optimizer": "torch.optim",
    "loggers": "lightning.pytorch.loggers",
    "callbacks": "lightning.pytorch.callbacks",
}
"""Where the classes live that a key may hold, by the last word of the key."""


def class_like(path: str, key: str) -> str | None:
    """Return the path of the class of a similar name, in the module that was named or in that of a key's own classes.

    >>> import mosaic.algorithms, mosaic.nets
    >>> class_like("mosaic.algorithms.FedAvgg", "algorithm"), class_like("smallcnn", "net")
    ('mosaic.algorithms.FedAvg', 'mosaic.nets.SmallCNN')
    """
    home, _, name = path.rpartition(".")
    home = home or _HOMES.get(key, "")
    known = vars(sys.modules[home]) if home in sys.modules else {}
    found = _most_alike(name, (each for each, value in known.items() if inspect.isclass(value) and each[0] != "_"))
    return f"{home}.{found}" if found else None


def setting_like(name: str, class_path: str) -> str | None:
    """Return the setting of a class whose name, or that of its group, is similar; none if it is the same.

    >>> setting_like("distilation.steps", "mosaic.algorithms.Mosaic")
    'distillation.steps'
    """
    try:
        settings = setting_types(resolve_name(class_path))
    except (ImportError, AttributeError):  # the class is another's mistake
        return None
    like = _setting_among(name.split("."), {**settings, "class_path": Any, "init_args": Any})
    return None if like == name else like


def key_like(key: str) -> str | None:
    """Return the key of a configuration that is similar; none if it is the same, or no configuration was asked for.

    >>> import mosaic.cli.sections
    >>> key_like("federation.shedule.local_step"), key_like("algoritm")
    ('federation.schedule.local_steps', 'algorithm')
    >>> key_like("config")
    """
    if (module := sys.modules.get("mosaic.cli.sections")) is None:
        return None
    from lightning.pytorch import Trainer

    others = dict.fromkeys(("seed_everything", "config", "ckpt_path"), Any)
    like = _setting_among(key.split("."), {**module.SECTIONS, "trainer": Trainer, **others})
    return None if like == key else like


def setting_types(owner: Any) -> dict[str, Any]:
    """Return the types of a class's arguments where they are known; for a union, those of its first class."""
    candidates = (each for each in (owner, *typing.get_args(owner)) if each is not NoneType)
    found = next((each for each in candidates if isinstance(each, type)), None)
    try:
        hints = typing.get_type_hints(getattr(found, "__init__", None)) if found else {}
    except Exception:  # names that only a type checker knows
        return {}
    return {name: hint for name, hint in hints.items() if name != "return"}


def _setting_among(words: Sequence[str], known: Mapping[str, Any]) -> str | None:
    """Follow words through settings and those within them, as far as they are known or similar."""
    first, *rest = words
    found = first if first in known else _most_alike(first, known)
    if found is None or not rest:
        return found
    deeper = _setting_among(rest, setting_types(known[found]))
    return f"{found}.{deeper}" if deeper else None if found == first else found


def _most_alike(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most alike, whatever the case of its letters."""
    lower = {each.lower(): each for each in known}
    return next((lower[found] for found in get_close_matches(name.lower(), lower, n=1)), None)
