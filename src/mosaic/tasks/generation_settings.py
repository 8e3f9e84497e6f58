"""How clients train their generators."""

from dataclasses import dataclass
from typing import Literal

from mosaic.errors import (
    require_at_least_zero,
    require_below_one,
    require_betas,
    require_choice,
    require_count,
    require_kinds,
    require_positive,
    require_whole,
)
from mosaic.nets.classifier import ImageShape
from mosaic.nets.dcgan import Discriminator, Generator, Initialization, Normalization

Loss = Literal["bce", "hinge"]
DiversityTarget = Literal["prior", "uniform"]


@dataclass(frozen=True)
class GenerationSettings:
    """How clients train their generators.

    The defaults differ from the released ones: on small data the released recipe (DCGAN weights, BatchNorm in the
    discriminator, BCE, a uniform target of weight 5) made images that hurt the student.

    Attributes:
        steps: generator updates, each after one discriminator update.
        epochs: passes over the client's images; a positive value replaces ``steps`` (released: 200).
        batch_size: real images per step (released: 64); at equal cost, more and smaller steps make better images.
        latent_dim: length of the noise (released: 100).
        width: channels of both nets (released: 64).
        conditional: whether generator and discriminator are given the label, drawn from the client's class counts (as
            in FedFTG, arXiv 2203.09249, and DENSE, arXiv 2112.12371; released: no).
        learning_rate: of Adam for both nets (released: 2e-4).
        betas: of Adam (released: 0.5 and 0.999).
        loss: ``hinge`` (as in Geometric GAN, arXiv 1705.02894), or ``bce`` (released).
        discriminator_normalization: ``none``, or ``batch`` from the second layer on (released).
        initialization: ``default`` is PyTorch's, ``dcgan`` is N(0, 0.02) (released).
        entropy_weight: weight of the mean entropy of the classifier's predictions (paper; 0 in the released code).
        diversity_weight: weight of the distance between the generated class mixture and its target (released: 5).
        diversity_target: the client's ``prior``, or ``uniform`` over all classes (released; it makes junk images of
            classes that the client has never seen).
        inversion_weight: weight of the BatchNorm distance; 0 leaves it out (released: 10 x 1e-3, never switched on).
        inversion_below: tau; only clients with fewer images to learn from use the BatchNorm distance (paper, without a
            value).
        min_count: the fewest images of a class from which a generator learns it; from fewer it could only copy them. A
            client without such a class trains no generator (released: no such rule). **Deviation**: images of other
            classes count neither in the label prior nor towards tau.
        average_decay: of the moving average that is uploaded; 0 uploads the last weights (released).
    """

    steps: int = 600
    epochs: float = 0.0
    batch_size: int = 32
    latent_dim: int = 64
    width: int = 16
    conditional: bool = True
    learning_rate: float = 2e-3
    betas: tuple[float, float] = (0.5, 0.99)
    loss: Loss = "hinge"
    discriminator_normalization: Normalization = "none"
    initialization: Initialization = "default"
    entropy_weight: float = 0.0
    diversity_weight: float = 1.0
    diversity_target: DiversityTarget = "prior"
    inversion_weight: float = 0.0
    inversion_below: int = 500
    min_count: int = 5
    average_decay: float = 0.98

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        section = "algorithm.generation"
        sizes = {"batch_size": self.batch_size, "latent_dim": self.latent_dim, "width": self.width}
        require_count(section, steps=self.steps, **sizes, min_count=self.min_count)
        require_positive(section, learning_rate=self.learning_rate)
        require_choice(section, Loss, loss=self.loss)
        require_choice(section, DiversityTarget, diversity_target=self.diversity_target)
        require_choice(section, Normalization, discriminator_normalization=self.discriminator_normalization)
        require_choice(section, Initialization, initialization=self.initialization)
        require_at_least_zero(
            section,
            epochs=self.epochs,
            entropy_weight=self.entropy_weight,
            diversity_weight=self.diversity_weight,
            inversion_weight=self.inversion_weight,
            inversion_below=self.inversion_below,
        )
        require_whole(section, inversion_below=self.inversion_below)
        require_below_one(section, average_decay=self.average_decay)
        require_betas(section, betas=self.betas)
        require_kinds(section, conditional=(self.conditional, bool))

    @property
    def guidance_weights(self) -> dict[str, float]:
        """The weights of the terms by which a classifier guides."""
        return {
            "entropy": self.entropy_weight,
            "diversity": self.diversity_weight,
            "inversion": self.inversion_weight,
        }

    @property
    def asks_guide(self) -> bool:
        """Whether a classifier's logits guide at all."""
        return self.entropy_weight > 0 or self.diversity_weight > 0

    def inverts(self, num_images: int) -> bool:
        """Whether a client with so many images uses the BatchNorm distance."""
        return self.inversion_weight > 0 and num_images < self.inversion_below

    def build_generator(self, image_shape: ImageShape, num_classes: int) -> Generator:
        """Return a freshly initialised generator."""
        return Generator(image_shape, num_classes, self.latent_dim, self.width, self.conditional, self.initialization)

    def build_discriminator(self, image_shape: ImageShape, num_classes: int) -> Discriminator:
        """Return a freshly initialised discriminator."""
        return Discriminator(
            image_shape,
            num_classes,
            self.width,
            self.discriminator_normalization,
            self.conditional,
            self.initialization,
        )
