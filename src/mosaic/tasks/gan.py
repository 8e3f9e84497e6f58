"""The step of a GAN: its discriminator learns, and then its generator."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mosaic.losses import adversarial
from mosaic.nets.inference import to_pixels
from mosaic.nets.moving_average import MovingAverage
from mosaic.tasks.generation_settings import GenerationSettings
from mosaic.training.manual import ManualTask, set_requires_grad
from mosaic.training.optimizers import adam
from mosaic.transfer import send

_DISCRIMINATOR_LOSS = {"bce": adversarial.discriminator_bce, "hinge": adversarial.discriminator_hinge}
_GENERATOR_LOSS = {"bce": adversarial.generator_bce, "hinge": adversarial.generator_hinge}


class GanTask(ManualTask):
    """Trains a generator against a discriminator; each is one network, or a stack of one network per client.

    Args:
        settings: how to train.
        guide: a frozen classifier that guides the generator.
        target: mixture of classes that the generator is to draw, shape ``(C,)``, or ``(K, C)`` for a stack.
        generator: draws images for noise and labels.
        discriminator: tells real images from drawn ones, given their labels.

    Attributes:
        batch_dim: the dimension of labels and images that counts the images of a batch.
    """

    takes_blocks = True
    batch_dim: ClassVar[int] = 0

    def __init__(
        self,
        settings: GenerationSettings,
        guide: nn.Module,
        target: Tensor,
        generator: nn.Module,
        discriminator: nn.Module,
    ) -> None:
        super().__init__()
        self.settings, self.guide, self.generator, self.discriminator = settings, guide, generator, discriminator
        self.target: Tensor
        self.register_buffer("target", target)
        self.average = MovingAverage(generator, settings.average_decay)
        self._discriminator_parameters = list(discriminator.parameters())  # listing them takes a tenth of a step

    @abstractmethod
    def draw_noise(self, count: int) -> Tensor:
        """Return noise for so many images of each network, on the CPU."""

    def each(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that does for every network what this one does for a single one."""
        return function

    def guidance(self, fake: Tensor) -> Mapping[str, Tensor]:
        """Return the terms by which the guide judges images, by the names of their weights in the settings."""
        return self.terms(self.guide(fake)) if self.settings.asks_guide else {}

    def on_fit_start(self) -> None:
        """Put frozen networks back into eval mode."""
        self.guide.eval()
        self.average.eval()

    def configure_optimizers(self) -> list[Optimizer]:
        """Return Adam for the discriminator and Adam for the generator."""
        rate, betas = self.settings.learning_rate, self.settings.betas
        return [adam(net.parameters(), rate, betas) for net in (self.discriminator, self.generator)]

    def training_step(self, given: Any, batch_idx: int) -> None:
        """Take one step, or the steps of a block, on stored images and their labels."""
        for images, labels in self.batches_in(given):
            self._step(to_pixels(images), labels)

    def _step(self, real: Tensor, labels: Tensor) -> None:
        """Update the discriminator, then the generator."""
        noise = send(self.draw_noise(labels.shape[self.batch_dim]), real.device)
        fake = self.generator(noise, labels)
        optimize_discriminator, optimize_generator = cast(list[Any], self.optimizers())
        self.descend(optimize_discriminator, self._discriminator_loss(real, fake.detach(), labels))
        set_requires_grad(self._discriminator_parameters, False)
        self.descend(optimize_generator, self._generator_loss(fake, labels))
        set_requires_grad(self._discriminator_parameters, True)
        self.average.update(self.generator)

    def terms(self, logits: Tensor) -> Mapping[str, Tensor]:
        """Return what the guide's logits say."""
        return cast(Mapping[str, Tensor], self.each(partial(_terms, self.settings))(logits, self.target))

    def _discriminator_loss(self, real: Tensor, fake: Tensor, labels: Tensor) -> Tensor:
        if self.settings.discriminator_normalization == "batch":  # statistics of their own
            judged = self.discriminator(real, labels), self.discriminator(fake, labels)
        else:
            both = (torch.cat(pair, self.batch_dim) for pair in ((real, fake), (labels, labels)))
            judged = self.discriminator(*both).chunk(2, self.batch_dim)
        losses: Tensor = self.each(_DISCRIMINATOR_LOSS[self.settings.loss])(*judged)
        self.record("discriminator", losses)
        return losses.sum()

    def _generator_loss(self, fake: Tensor, labels: Tensor) -> Tensor:
        losses: Tensor = self.each(_GENERATOR_LOSS[self.settings.loss])(self.discriminator(fake, labels))
        self.record("adversarial", losses)
        for name, term in self.guidance(fake).items():
            self.record(name, term)
            losses = losses + self.settings.guidance_weights[name] * term
        return losses.sum()


def _terms(settings: GenerationSettings, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Return the terms by which logits ``(B, C)`` of a classifier guide a generator, by name and without weights."""
    terms = {}
    if settings.entropy_weight:
        terms["entropy"] = adversarial.mean_entropy(logits)
    if settings.diversity_weight:
        terms["diversity"] = adversarial.diversity(logits, target)
    return terms
