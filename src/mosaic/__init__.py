"""Federated learning for clients whose data and models differ, without any real data leaving a client.

What is exported here, and what the packages below export, is public; each is imported when it is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mosaic import algorithms as algorithms
    from mosaic import data as data
    from mosaic import executors as executors
    from mosaic import generation as generation
    from mosaic import nets as nets
    from mosaic import privacy as privacy
    from mosaic import teachers as teachers
    from mosaic.api.comparison import Comparison, compare
    from mosaic.api.federation import Federation
    from mosaic.api.fitting import fit
    from mosaic.api.run import Run, load
    from mosaic.api.samples import Samples
    from mosaic.errors import MosaicError
    from mosaic.federation.schedule import Schedule
    from mosaic.model_pool import ClientModels
    from mosaic.server.faults import Faults

__version__ = "0.2.0.dev0"

__all__ = [
    "ClientModels", "Comparison", "Faults", "Federation", "MosaicError", "Run", "Samples", "Schedule", "algorithms",
    "compare", "data", "executors", "fit", "generation", "load", "nets", "privacy", "teachers",
]  # fmt: skip

_PACKAGES = ("algorithms", "data", "executors", "generation", "nets", "privacy", "teachers")
_PLACES = {
    **dict.fromkeys(("Comparison", "compare"), "mosaic.api.comparison"),
    **dict.fromkeys(("Run", "load"), "mosaic.api.run"),
    "ClientModels": "mosaic.model_pool",
    "Faults": "mosaic.server.faults",
    "Federation": "mosaic.api.federation",
    "MosaicError": "mosaic.errors",
    "Samples": "mosaic.api.samples",
    "Schedule": "mosaic.federation.schedule",
    "fit": "mosaic.api.fitting",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for."""
    if name in _PACKAGES:
        return import_module(f"mosaic.{name}")
    if name not in _PLACES:
        raise AttributeError(f"module 'mosaic' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
