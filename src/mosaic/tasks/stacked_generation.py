"""Train the GANs of several clients in lockstep, as one stack of networks."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.func import vmap

from mosaic.nets.dcgan import Generator
from mosaic.nets.stack import Stack
from mosaic.tasks.gan import GanTask
from mosaic.tasks.generation import GenerationTask
from mosaic.tasks.stacked import StackedTask


class StackedGenerationTask(StackedTask, GanTask):
    """K GANs with guides of one architecture; each learns what it would learn alone, up to rounding.

    All networks of a kind share a forward pass (``torch.func.vmap``), every client has its own losses and noise, and
    Adam treats every number by itself. Batches are images ``(K, B, channels, H, W)`` and labels ``(K, B)``.

    Args:
        alone: the tasks that would train each client by itself; none of them inverts BatchNorm statistics.
    """

    batch_dim: ClassVar[int] = 1

    def __init__(self, alone: Sequence[GenerationTask]) -> None:
        guide, generator, discriminator = (
            Stack([getattr(task, name) for task in alone]) for name in ("guide", "generator", "discriminator")
        )
        target = torch.stack([task.target for task in alone])
        super().__init__(alone[0].settings, guide, target, generator, discriminator)
        self._alone = list(alone)
        self._noise = [torch.Generator() for _ in alone]

    def on_fit_start(self) -> None:
        """Put frozen networks back into eval mode, and begin every client's noise."""
        super().on_fit_start()
        for random, task in zip(self._noise, self._alone, strict=True):
            random.manual_seed(task.noise_seed)

    def draw_noise(self, count: int) -> Tensor:
        """Return noise of shape ``(K, count, latent_dim)``."""
        return torch.stack([torch.randn(count, self.settings.latent_dim, generator=random) for random in self._noise])

    def each(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that does for every client what this one does for one."""
        return vmap(function)

    def trained_generators(self) -> list[Generator]:
        """Return the moving average of each client's generator, which is uploaded."""
        average, generators = cast(Stack, self.average.corrected()), [task.generator for task in self._alone]
        for k, generator in enumerate(generators):
            generator.load_state_dict(average.state_of(k))
            generator.eval().requires_grad_(False)
        return cast(list[Generator], generators)
