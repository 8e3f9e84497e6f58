"""Several generators per client, which take turns."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

from torch import Tensor

from mosaic.errors import MosaicError
from mosaic.generation.base import Fitted, Generation, OwnImages, require_generations
from mosaic.generation.class_gaussians import ClassGaussians
from mosaic.nets.classifier import ImageShape
from mosaic.nets.image_generator import MixedGenerator


class Mixture(Generation):
    """Learns several generators of a client's images, ``parts``; all of them are conditional, or none."""

    def __init__(self, parts: Sequence[Generation]) -> None:
        for place, part in enumerate(parts):
            require_generations("algorithm.generation", **{f"parts[{place}]": part})
        if len(parts) < 2 or len({part.conditional for part in parts}) > 1:
            raise MosaicError(
                "algorithm.generation.parts: expected at least two generators, all conditional or none, got "
                f"{[type(part).__name__ for part in parts]}"
            )
        if any(isinstance(part, Mixture) for part in parts):
            raise MosaicError(
                "algorithm.generation.parts: expected generators, got a Mixture in a Mixture: put its parts there"
            )
        if any(isinstance(part, ClassGaussians) and part == other for part, other in combinations(parts, 2)):
            raise MosaicError(
                "algorithm.generation.parts: expected generators that differ, got two ClassGaussians with the same "
                "settings, which learn the same: change a setting of one"
            )
        self.parts = list(parts)
        self.min_count = max(part.min_count for part in parts)
        self.conditional = parts[0].conditional
        self.trains_two = any(part.trains_two for part in parts)

    def build(self, image_shape: ImageShape, class_counts: Tensor) -> MixedGenerator:
        """Return a mixture of blank generators."""
        return MixedGenerator(part.build(image_shape, class_counts) for part in self.parts)

    def fit(self, own: OwnImages) -> Fitted:
        """Learn the generators one after the other; those of one kind draw different numbers."""
        fitted = [part.fit(_apart(own, self._earlier_of_its_kind(place))) for place, part in enumerate(self.parts)]
        return Fitted(
            MixedGenerator(each.generator for each in fitted),
            sum(each.steps for each in fitted),
            sum(each.discriminator_steps for each in fitted),
            max(each.attempts for each in fitted),
            {
                f"{name}{self._earlier_of_its_kind(place) or ''}": curve
                for place, each in enumerate(fitted)
                for name, curve in each.curves.items()
            },
        )

    def _earlier_of_its_kind(self, place: int) -> int:
        return sum(_are_related(part, self.parts[place]) for part in self.parts[:place])


def _are_related(one: Generation, other: Generation) -> bool:
    """Whether two generators have a class in common, beside what all generators are."""
    return bool({*type(one).__mro__} & {*type(other).__mro__} - {*Generation.__mro__})


def _apart(own: OwnImages, number: int) -> OwnImages:
    """Return the same images with seeds of their own, unless they are for the first generator of a kind."""
    return own if number == 0 else replace(own, seed=lambda name: own.seed(f"{name}/{number}"))
