"""Train the GANs of several clients in lockstep, as one stack of networks."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.optim import Optimizer

from mosaic.nets.dcgan import Generator
from mosaic.nets.inference import to_pixels
from mosaic.nets.moving_average import MovingAverage
from mosaic.nets.stack import Stack
from mosaic.tasks.generation import DISCRIMINATOR_LOSS, GENERATOR_LOSS, GenerationTask, guidance
from mosaic.training.manual import ManualTask, set_requires_grad
from mosaic.training.optimizers import adam
from mosaic.transfer import send


class StackedGenerationTask(ManualTask):
    """K GANs with guides of one architecture; each learns what it would learn alone, up to rounding.

    All networks of a kind share a forward pass (``torch.func.vmap``), every client has its own losses and noise, and
    Adam treats every number by itself.

    Args:
        alone: the tasks that would train each client by itself; none of them inverts BatchNorm statistics.
    """

    takes_blocks = True

    def __init__(self, alone: Sequence[GenerationTask]) -> None:
        super().__init__()
        self.settings, self._alone = alone[0].settings, list(alone)
        self.generators = Stack([task.generator for task in alone])
        self.discriminators = Stack([task.discriminator for task in alone])
        self.guides = Stack([task.guide for task in alone])
        self.average = MovingAverage(self.generators, self.settings.average_decay)
        self.targets: Tensor
        self.register_buffer("targets", torch.stack([task.target for task in alone]))
        self._noise = [torch.Generator() for _ in alone]

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move every tensor; stacked kernels have five dimensions, which no memory format concerns."""
        return self if "memory_format" in kwargs else super().to(*args, **kwargs)

    def networks(self) -> Iterable[nn.Module]:
        """Return nothing to compile: ``torch.func`` calls the stack's networks by its own way."""
        return ()

    def on_fit_start(self) -> None:
        """Put frozen networks back into eval mode, and begin every client's noise."""
        self.guides.eval()
        self.average.eval()
        for random, task in zip(self._noise, self._alone, strict=True):
            random.manual_seed(task.noise_seed)

    def configure_optimizers(self) -> list[Optimizer]:
        """Return Adam for the discriminators and Adam for the generators."""
        rate, betas = self.settings.learning_rate, self.settings.betas
        return [adam(net.parameters(), rate, betas) for net in (self.discriminators, self.generators)]

    def training_step(self, given: Any, batch_idx: int) -> None:
        """Take one step, or the steps of a block, on images ``(K, B, channels, H, W)`` and labels ``(K, B)``."""
        for images, labels in self.batches_in(given):
            self._step(to_pixels(images), labels)

    def _step(self, real: Tensor, labels: Tensor) -> None:
        size = labels.shape[1], self.settings.latent_dim
        noise = torch.stack([torch.randn(size, generator=random) for random in self._noise])
        fake = self.generators(send(noise, real.device), labels)
        optimize_discriminators, optimize_generators = cast(list[Any], self.optimizers())
        self.descend(optimize_discriminators, self._discriminator_loss(real, fake.detach(), labels))
        learnt = list(self.discriminators.parameters())
        set_requires_grad(learnt, False)
        self.descend(optimize_generators, self._generator_loss(fake, labels))
        set_requires_grad(learnt, True)
        self.average.update(self.generators)

    def _discriminator_loss(self, real: Tensor, fake: Tensor, labels: Tensor) -> Tensor:
        if self.settings.discriminator_normalization == "batch":  # statistics of their own
            judged = self.discriminators(real, labels), self.discriminators(fake, labels)
        else:
            both = torch.cat([real, fake], dim=1), torch.cat([labels, labels], dim=1)
            judged = self.discriminators(*both).chunk(2, dim=1)
        losses: Tensor = vmap(DISCRIMINATOR_LOSS[self.settings.loss])(*judged)
        self.record("discriminator", losses)
        return losses.sum()

    def _generator_loss(self, fake: Tensor, labels: Tensor) -> Tensor:
        losses: Tensor = vmap(GENERATOR_LOSS[self.settings.loss])(self.discriminators(fake, labels))
        self.record("adversarial", losses)
        if weights := self.settings.guidance_weights:
            terms = vmap(partial(guidance, self.settings))(self.guides(fake), self.targets)
            for name, term in terms.items():
                self.record(name, term)
                losses = losses + weights[name] * term
        return losses.sum()

    def trained_generators(self) -> list[Generator]:
        """Return the moving average of each client's generator, which is uploaded."""
        average = cast(Stack, self.average.corrected())
        for k, task in enumerate(self._alone):
            task.generator.load_state_dict(average.state_of(k))
        return [task.generator.eval().requires_grad_(False) for task in self._alone]
