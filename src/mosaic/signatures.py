"""Find the arguments that a class accepts, those of its parents included, and whether it is this package's own."""

import inspect
from collections.abc import Callable
from typing import Any


def is_ours(value: object) -> bool:
    """Return whether an object's class is this package's own, and not the user's or another library's."""
    return type(value).__module__.startswith("mosaic.")


def accepted_arguments(factory: Callable[..., Any]) -> tuple[set[str], bool]:
    """Return the names of a class's arguments, those of its parents included, and whether it takes any other."""
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
