"""One GAN per client, guided by the client's classifier (docs/method.md, section 2)."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from mosaic.finite import are_plausible
from mosaic.generation.base import Fitted, Generation, NoGeneratorError, OwnImages, TrainTogether
from mosaic.nets.classifier import ImageShape
from mosaic.nets.dcgan import Generator
from mosaic.seeding import seeded
from mosaic.tasks.generation import GenerationTask
from mosaic.tasks.generation_settings import GenerationSettings
from mosaic.tasks.stacked_generation import StackedGenerationTask

RETRY = 0.1
"""Factor on the learning rate when a generator that diverged is trained again."""


@dataclass(frozen=True)
class Adversarial(GenerationSettings, Generation):
    """A small GAN; its arguments are those of :class:`GenerationSettings`."""

    trains_two = True

    def build(self, image_shape: ImageShape, class_counts: Tensor) -> Generator:
        """Return a freshly initialised generator of the shape that all clients use."""
        return self.build_generator(image_shape, len(class_counts))

    def fit(self, own: OwnImages) -> Fitted:
        """Train a generator, and again at a lower rate if it diverges."""
        for attempt, rate in enumerate((self.learning_rate, RETRY * self.learning_rate), start=1):
            task = self._task(own, rate)
            curves = own.train(task, self.batch_size, self.steps, self.epochs)
            generator = task.trained_generator()
            if are_plausible(generator.state_dict().values()):
                steps, discriminator_steps = (attempt * len(curves[name]) for name in ("adversarial", "discriminator"))
                return Fitted(generator, steps, discriminator_steps, attempt, curves)
        raise NoGeneratorError(
            f"its generator diverged to values that are huge or not finite, at {RETRY:g} x the rate too"
        )

    def stack_key(self, images: int) -> Hashable | None:
        """Return the batch size; passes over the images take each client another number of steps."""
        if self.epochs > 0 or self.inverts(images):
            return None
        return min(images, self.batch_size)

    def fit_together(self, own: Sequence[OwnImages], train: TrainTogether) -> list[Fitted | None]:
        """Train generators in lockstep; one that diverges has to be trained alone."""
        task = StackedGenerationTask([self._task(each, self.learning_rate) for each in own])
        curves = train(task, self.batch_size, self.steps)
        steps = len(curves["adversarial"]), len(curves["discriminator"])
        return [
            Fitted(generator, *steps, 1, {name: curve[:, k] for name, curve in curves.items()})
            if are_plausible(generator.state_dict().values())
            else None
            for k, generator in enumerate(task.trained_generators())
        ]

    def _task(self, own: OwnImages, rate: float) -> GenerationTask:
        with seeded(own.seed("generator/init")):
            settings, seed = replace(self, learning_rate=rate), own.seed("generator/noise")
            return GenerationTask(settings, own.guide, own.prior, len(own.labels), seed)
