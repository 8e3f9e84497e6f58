"""How a client learns to make images like its own: what every kind of generator offers."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from mosaic.nets.classifier import Classifier, ImageShape
from mosaic.nets.image_generator import ImageGenerator
from mosaic.training.task import Task

Train = Callable[[Task, int, int, float], dict[str, Tensor]]
"""Trains a task on the client's images: task, batch size, steps, and passes that replace them where positive."""


@dataclass(frozen=True)
class OwnImages:
    """What a generator may learn from, of one client.

    Attributes:
        pixels: in ``[0, 1]``, shape ``(n, channels, H, W)``, of the classes that are counted.
        labels: shape ``(n,)``.
        class_counts: images per class, shape ``(C,)``; zero for classes of which there are too few.
        prior: the client's smoothed label prior, shape ``(C,)``.
        guide: the classifier that the client has just trained.
        train: runs a phase on these images.
        seed: a seed for each name.
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
    """A generator that has been learnt.

    Attributes:
        generator: draws images.
        steps: updates that it took, failed attempts included.
        discriminator_steps: updates of a network that only trained it.
        attempts: how often it was tried.
        curves: losses, each of shape ``(steps,)``.
    """

    generator: ImageGenerator
    steps: int = 0
    discriminator_steps: int = 0
    attempts: int = 1
    curves: dict[str, Tensor] = field(default_factory=dict)


class NoGeneratorError(RuntimeError):
    """No generator could be learnt; the message says why, to the server too."""


class Generation(ABC):
    """Learns a generator on a client, and rebuilds it on the server from the tensors that crossed.

    Attributes:
        min_count: fewest images of a class that images are made of.
        conditional: whether its generators heed labels.
    """

    min_count: int
    conditional: bool

    @abstractmethod
    def build(self, image_shape: ImageShape, class_counts: Tensor) -> ImageGenerator:
        """Return a blank generator, into which what crossed is loaded.

        Args:
            image_shape: channels, height, width.
            class_counts: images per class that it has learnt from, shape ``(C,)``.
        """

    @abstractmethod
    def fit(self, own: OwnImages) -> Fitted:
        """Learn a generator of a client's images.

        Raises:
            NoGeneratorError: none could be learnt.
        """
