"""The interface of all methods by which a client learns a generator of its images."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from mosaic.errors import MosaicError, require_kinds
from mosaic.nets.classifier import Classifier, ImageShape
from mosaic.nets.image_generator import ImageGenerator
from mosaic.training.task import Task

Train = Callable[[Task, int, int, float], dict[str, Tensor]]
"""Trains a task on the client's images: task, batch size, steps, and epochs, which replace steps if positive."""


TrainTogether = Callable[[Task, int, int], dict[str, Tensor]]
"""Trains a task on the images of several clients at once: task, batch size, steps."""


@dataclass(frozen=True)
class OwnImages:
    """The images of one client from which a generator learns.

    Attributes:
        pixels: returns pixels in ``[0, 1]``, shape ``(n, channels, H, W)``, of the classes with a count above zero.
        labels: shape ``(n,)``.
        class_counts: images per class, shape ``(C,)``; zero for classes with too few images.
        prior: smoothed label prior of these images, shape ``(C,)``.
        guide: the classifier that the client has just trained.
        train: runs a training phase on these images.
        seed: returns a seed for each name.
    """

    pixels: Callable[[], Tensor]
    labels: Tensor
    class_counts: Tensor
    prior: Tensor
    guide: Classifier
    train: Train
    seed: Callable[[str], int]


@dataclass(frozen=True)
class Fitted:
    """A learnt generator.

    Attributes:
        generator: draws images.
        steps: updates of the generator, failed attempts included.
        discriminator_steps: updates of the discriminator.
        attempts: number of attempts.
        curves: losses, each of shape ``(steps,)``.
    """

    generator: ImageGenerator
    steps: int = 0
    discriminator_steps: int = 0
    attempts: int = 1
    curves: dict[str, Tensor] = field(default_factory=dict)


class NoGeneratorError(RuntimeError):
    """No generator could be learnt; the server receives the message too."""


class Generation(ABC):
    """Learns a generator on a client, and rebuilds it on the server from its tensors.

    Attributes:
        min_count: fewest images of a class from which a generator learns the class.
        conditional: whether its generators depend on labels.
        trains_two: whether it trains two networks in turns, each with its own optimiser, which some callbacks refuse.
    """

    min_count: int
    conditional: bool
    trains_two: bool = False

    @abstractmethod
    def build(self, image_shape: ImageShape, class_counts: Tensor) -> ImageGenerator:
        """Return a blank generator, into which the server loads a client's tensors.

        Args:
            image_shape: channels, height, width.
            class_counts: the client's images per class, shape ``(C,)``.
        """

    @abstractmethod
    def fit(self, own: OwnImages) -> Fitted:
        """Learn a generator of a client's images, or raise :class:`NoGeneratorError`."""

    def stack_key(self, images: int) -> Hashable | None:
        """Return what must be equal for clients with so many images to learn in lockstep; ``None`` if they cannot."""
        return None

    def fit_together(self, own: Sequence[OwnImages], train: TrainTogether) -> list[Fitted | None]:
        """Learn generators of several clients in lockstep; ``None`` stands for one that has to be learnt alone.

        Args:
            own: images of clients with one :meth:`stack_key`.
            train: runs a training phase on all of them.
        """
        return [None for _ in own]


def require_generations(section: str, **given: object) -> None:
    """Raise :class:`MosaicError` unless every value, by key, is a :class:`Generation` that has all its attributes."""
    for key, value in given.items():
        require_kinds(section, **{key: (value, Generation)})
        for name in ("min_count", "conditional"):
            if not hasattr(value, name):
                raise MosaicError(
                    f"{section}.{key}: expected {type(value).__name__} to have {name}, which mosaic.generation."
                    "Generation explains, got none: set it in the class or in __init__"
                )
