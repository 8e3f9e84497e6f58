"""Train a generator of one client's images, guided by the client's classifier (docs/method.md, section 2)."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from mosaic.errors import (
    require_at_least_zero,
    require_betas,
    require_choice,
    require_count,
    require_decay,
    require_kinds,
    require_positive,
    require_whole,
)
from mosaic.losses import adversarial
from mosaic.nets.batchnorm import batch_norm_inputs
from mosaic.nets.classifier import Classifier, ImageShape
from mosaic.nets.dcgan import Discriminator, Generator, Initialization, Normalization
from mosaic.nets.inference import to_pixels
from mosaic.nets.moving_average import MovingAverage
from mosaic.training.manual import ManualTask, set_requires_grad
from mosaic.training.optimizers import adam
from mosaic.transfer import send

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
        inversion_below: tau; only clients with fewer images use the BatchNorm distance (paper, which gives no value).
        min_count: the fewest images of a class from which a generator learns it; from fewer it could only copy them. A
            client without such a class trains no generator (released: no such rule).
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
        require_decay(section, average_decay=self.average_decay)
        require_betas(section, betas=self.betas)
        require_kinds(section, conditional=(self.conditional, bool))

    @property
    def guidance_weights(self) -> dict[str, float]:
        """The weights of the terms by which a classifier guides, where they are not 0."""
        weights = {"entropy": self.entropy_weight, "diversity": self.diversity_weight}
        return {name: weight for name, weight in weights.items() if weight}

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


class GenerationTask(ManualTask):
    """A GAN on one client's images whose generator is also guided by a classifier.

    Args:
        settings: how to train.
        guide: the classifier that the client uploaded; the task uses a frozen copy in eval mode.
        class_prior: the client's smoothed label prior, shape ``(C,)``.
        num_images: the client's images; they decide whether it counts as data-poor.
        seed: of the noise; each rank adds its number.
    """

    takes_blocks = True

    def __init__(
        self, settings: GenerationSettings, guide: Classifier, class_prior: Tensor, num_images: int, seed: int
    ) -> None:
        super().__init__()
        self.settings = settings
        self.guide = copy.deepcopy(guide).eval().requires_grad_(False)
        self.generator = settings.build_generator(guide.image_shape, guide.num_classes)
        self.discriminator = settings.build_discriminator(guide.image_shape, guide.num_classes)
        self.average = MovingAverage(self.generator, settings.average_decay)
        self._discriminator_parameters = list(self.discriminator.parameters())  # listing them takes a tenth of a step
        self.target: Tensor
        uniform = torch.full_like(class_prior, 1 / len(class_prior))
        self.register_buffer("target", class_prior if settings.diversity_target == "prior" else uniform)
        self._invert = settings.inverts(num_images)
        self.noise_seed = seed
        self._noise = torch.Generator()

    def on_fit_start(self) -> None:
        """Put frozen networks back into eval mode, and give every rank its own noise."""
        self.guide.eval()
        self.average.eval()
        self._noise.manual_seed(self.noise_seed + self.global_rank)

    def configure_optimizers(self) -> list[Optimizer]:
        """Return Adam for the discriminator and Adam for the generator."""
        rate, betas = self.settings.learning_rate, self.settings.betas
        return [adam(net.parameters(), rate, betas) for net in (self.discriminator, self.generator)]

    def training_step(self, given: Any, batch_idx: int) -> None:
        """Take one step, or the steps of a block."""
        for images, labels in self.batches_in(given):
            self._step(to_pixels(images), labels)

    def _step(self, real: Tensor, labels: Tensor) -> None:
        """Update the discriminator, then the generator."""
        noise = send(torch.randn(len(real), self.settings.latent_dim, generator=self._noise), real.device)
        fake = self.generator(noise, labels)
        optimize_discriminator, optimize_generator = cast(list[Any], self.optimizers())
        self.descend(optimize_discriminator, self._discriminator_loss(real, fake.detach(), labels))
        set_requires_grad(self._discriminator_parameters, False)
        self.descend(optimize_generator, self._generator_loss(fake, labels))
        set_requires_grad(self._discriminator_parameters, True)
        self.average.update(self.generator)

    def trained_generator(self) -> Generator:
        """Return the moving average of the generator, which is uploaded."""
        return cast(Generator, self.average.corrected())

    def _discriminator_loss(self, real: Tensor, fake: Tensor, labels: Tensor) -> Tensor:
        if self.settings.discriminator_normalization == "batch":  # statistics of their own
            judged = (self.discriminator(real, labels), self.discriminator(fake, labels))
        else:
            judged = self.discriminator(torch.cat([real, fake]), torch.cat([labels, labels])).chunk(2)
        loss = DISCRIMINATOR_LOSS[self.settings.loss](*judged)
        self.record("discriminator", loss)
        return loss

    def _generator_loss(self, fake: Tensor, labels: Tensor) -> Tensor:
        settings = self.settings
        loss = GENERATOR_LOSS[settings.loss](self.discriminator(fake, labels))
        self.record("adversarial", loss)
        weights = settings.guidance_weights
        if not (weights or self._invert):
            return loss
        logits, layers = self._ask_guide(fake)
        for name, term in guidance(settings, logits, self.target).items():
            self.record(name, term)
            loss = loss + weights[name] * term
        if self._invert:
            inversion = adversarial.inversion(layers)
            self.record("inversion", inversion)
            loss = loss + settings.inversion_weight * inversion
        return loss

    def _ask_guide(self, images: Tensor) -> tuple[Tensor, Sequence[tuple[Tensor, Tensor, Tensor]]]:
        """Return the guide's logits, and where that counts what its BatchNorm layers saw; then it runs eagerly."""
        if not self._invert:
            return self.guide(images), ()
        with batch_norm_inputs(self.guide) as layers:
            return self.guide(images), layers


def guidance(settings: GenerationSettings, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Return the terms by which logits ``(B, C)`` of a classifier guide a generator, by name and without weights."""
    terms = {}
    if settings.entropy_weight:
        terms["entropy"] = adversarial.mean_entropy(logits)
    if settings.diversity_weight:
        terms["diversity"] = adversarial.diversity(logits, target)
    return terms


DISCRIMINATOR_LOSS = {"bce": adversarial.discriminator_bce, "hinge": adversarial.discriminator_hinge}
GENERATOR_LOSS = {"bce": adversarial.generator_bce, "hinge": adversarial.generator_hinge}
