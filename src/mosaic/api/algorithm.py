"""Make the algorithm that the configuration of a run names."""

from collections.abc import Mapping
from typing import Any

from jsonargparse import ArgumentParser

from mosaic.algorithms.base import Algorithm
from mosaic.errors import MosaicError


def algorithm_of(config: Mapping[str, Any]) -> Algorithm:
    """Return the algorithm of a configuration; a class of another kind is refused.

    Raises:
        MosaicError: the configuration describes objects.
    """
    if config.get("from_objects"):
        raise MosaicError(
            "this run was made of objects, and its config.yaml only describes them: give its algorithm to mosaic.load, "
            "as in mosaic.load(run_dir, algorithm=Mosaic(...))"
        )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Algorithm, "algorithm")
    made: Algorithm = parser.instantiate(parser.parse_object({"algorithm": config["algorithm"]})).algorithm
    return made
