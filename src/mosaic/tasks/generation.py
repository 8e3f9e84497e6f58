"""Train a generator of one client's images, guided by the client's classifier (docs/method.md, section 2)."""

import copy
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from mosaic.losses import adversarial
from mosaic.nets.batchnorm import batch_norm_inputs
from mosaic.nets.classifier import Classifier
from mosaic.nets.dcgan import Generator
from mosaic.tasks.gan import GanTask
from mosaic.tasks.generation_settings import GenerationSettings


class GenerationTask(GanTask):
    """A GAN on one client's images whose generator is also guided by a classifier.

    Args:
        settings: how to train.
        guide: the classifier that the client uploaded; the task uses a frozen copy in eval mode.
        class_prior: the client's smoothed label prior, shape ``(C,)``.
        num_images: images to learn from; they decide whether it counts as data-poor.
        seed: of the noise; each rank adds its number.
    """

    def __init__(
        self, settings: GenerationSettings, guide: Classifier, class_prior: Tensor, num_images: int, seed: int
    ) -> None:
        frozen = copy.deepcopy(guide).eval().requires_grad_(False)
        uniform = torch.full_like(class_prior, 1 / len(class_prior))
        target = class_prior if settings.diversity_target == "prior" else uniform
        generator = settings.build_generator(guide.image_shape, guide.num_classes)
        discriminator = settings.build_discriminator(guide.image_shape, guide.num_classes)
        super().__init__(settings, frozen, target, generator, discriminator)
        self._invert = settings.inverts(num_images)
        self.noise_seed = seed
        self._noise = torch.Generator()

    def on_fit_start(self) -> None:
        """Put frozen networks back into eval mode, and give every rank its own noise."""
        super().on_fit_start()
        self._noise.manual_seed(self.noise_seed + self.global_rank)

    def draw_noise(self, count: int) -> Tensor:
        """Return noise of shape ``(count, latent_dim)``."""
        return torch.randn(count, self.settings.latent_dim, generator=self._noise)

    def guidance(self, fake: Tensor) -> Mapping[str, Tensor]:
        """Return the terms of the guide's logits, and the distance to its BatchNorm statistics where that counts."""
        if not self._invert:
            return super().guidance(fake)
        with batch_norm_inputs(self.guide) as layers:  # runs eagerly
            terms = self.terms(self.guide(fake))
        return {**terms, "inversion": adversarial.inversion(layers)}

    def trained_generator(self) -> Generator:
        """Return the moving average of the generator, which is uploaded."""
        return cast(Generator, self.average.corrected())
