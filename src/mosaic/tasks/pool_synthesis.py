"""Alternately synthesise images that an ensemble recognises and distil it into a student (DENSE, Co-Boosting)."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.optim import SGD, Optimizer

from mosaic.losses.adversarial import inversion
from mosaic.losses.distillation import knowledge_distillation
from mosaic.losses.synthesis import boundary_support, hard_label_cross_entropy, output_diversification, signed_step
from mosaic.nets.batchnorm import batch_norm_inputs, held_statistics
from mosaic.nets.classifier import Classifier
from mosaic.nets.dcgan import Generator
from mosaic.nets.teacher import MixtureOfExperts
from mosaic.ranks import world_size
from mosaic.seeding import seeded
from mosaic.tasks.alternating import UpdateCounts
from mosaic.tasks.image_pool import ImagePool
from mosaic.tasks.synthesis_settings import LearningSettings, ReweighingSettings, SynthesisSettings
from mosaic.training.manual import ManualTask, set_requires_grad
from mosaic.training.optimizers import adam
from mosaic.transfer import send

CURVES = ("generator", "statistics", "labels", "divergence")
"""Curves of every synthesis: the loss of the images that were kept, and its unweighted terms."""


class PoolSynthesisTask(ManualTask):
    """Repeat: synthesise a batch of images, add it to a pool, update the student on the whole pool.

    Each block of the loader is one synthesis, of as many generator updates, and the student updates after it; the
    student's momentum persists. Under DDP, every rank keeps its own images and computes BatchNorm distances from its
    own share.

    Args:
        student: the classifier, trained in place.
        ensemble: experts joined by :class:`~mosaic.nets.gates.WeightedLogits`; frozen except for these weights.
        synthesis: how images are synthesised.
        learning: how the student learns.
        reweighing: how the ensemble's weights change.
        syntheses: number of syntheses.
        seed: of generators, noise, labels and views.
    """

    def __init__(
        self,
        student: Classifier,
        ensemble: MixtureOfExperts,
        synthesis: SynthesisSettings,
        learning: LearningSettings,
        reweighing: ReweighingSettings,
        syntheses: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.student, self.ensemble = student, ensemble.to(memory_format=torch.channels_last)  # faster on CPUs
        self.synthesis, self.learning, self.reweighing = synthesis, learning, reweighing
        self._syntheses, self._seed = syntheses, seed
        self._student_parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
        self.generator = self._fresh_generator(seed)
        self._noise: tuple[nn.Parameter, ...] = ()  # hidden from the module, or DDP would make it equal on all ranks
        self._seeds = torch.randint(2**62, (syntheses,), generator=torch.Generator().manual_seed(seed)).tolist()
        self._random = torch.Generator()

    def on_fit_start(self) -> None:
        """Put the ensemble back into eval mode, and create an empty pool."""
        self.ensemble.eval()
        self._random.manual_seed(self._seed + 1 + self.global_rank)
        capacity = self._syntheses * _own_size(self.synthesis.batch_size)
        self.pool = ImagePool(capacity, self.student.image_shape, self.student.num_classes, self.device)

    def networks(self) -> list[nn.Module]:
        """Return generator, student and experts; the experts run with and without the gate."""
        return [self.generator, self.student, self.ensemble.experts]

    def configure_optimizers(self) -> list[Optimizer]:
        """Return SGD for the student, and Adam for the generator with its noise."""
        settings, size = self.learning, _own_size(self.synthesis.batch_size)
        self._noise = (nn.Parameter(torch.zeros(size, self.synthesis.latent_dim, device=self.device)),)
        return [
            SGD(self._student_parameters, lr=settings.learning_rate, momentum=settings.momentum),
            adam([*self.generator.parameters(), *self._noise], self.synthesis.learning_rate),
        ]

    def training_step(self, block: UpdateCounts, batch_idx: int) -> None:
        """Synthesise images, reweigh the ensemble, update the student."""
        images, labels = self._synthesise(self._seeds[batch_idx], block.generator_updates)
        if self.reweighing.step:
            self._reweigh(self._hardened(images), labels, self.reweighing.step * self.reweighing.decay**batch_idx)
        kept = self.pool.append(images)
        if self._logits_last:
            self.pool.annotate(self._ensemble_logits(kept))
        for _ in range(block.student_updates):
            self._update_student()

    @property
    def _logits_last(self) -> bool:
        """Whether the ensemble's logits of an image stay the same, so that the pool can keep them."""
        return not (self.learning.view or self.learning.pixel_step or self.reweighing.step)

    def _synthesise(self, seed: int, steps: int) -> tuple[Tensor, Tensor]:
        """Train a fresh generator with its noise; return the images of the best step and their labels."""
        optimizer = cast(list[Any], self.optimizers())[1]
        labels = self._start_afresh(optimizer, seed)
        self.student.eval()
        set_requires_grad(self._student_parameters, False)
        best: tuple[Tensor, Tensor] | None = None
        for _ in range(steps):
            images = self.generator(*self._noise)
            losses = self._generator_losses(images, labels)
            best = _better(best, images.detach(), losses.detach())
            self.descend(optimizer, losses[0])
        set_requires_grad(self._student_parameters, True)
        self.student.train()
        assert best is not None
        for name, value in zip(CURVES, best[1], strict=True):
            self.record(name, value)
        return best[0], labels

    @torch.no_grad()
    def _start_afresh(self, optimizer: Any, seed: int) -> Tensor:
        """Give the generator new weights, its noise new values and its optimiser a blank memory; draw labels."""
        fresh = self._fresh_generator(seed).state_dict()
        for name, tensor in self.generator.state_dict().items():
            tensor.copy_(send(fresh[name], self.device))
        optimizer.state.clear()
        (noise,) = self._noise
        noise.copy_(send(torch.randn(noise.shape, generator=self._random), self.device))
        return send(torch.randint(self.student.num_classes, (len(noise),), generator=self._random), self.device)

    def _fresh_generator(self, seed: int) -> Generator:
        settings, student = self.synthesis, self.student
        with seeded(seed):
            return Generator(
                student.image_shape,
                student.num_classes,
                settings.latent_dim,
                settings.width,
                initialization=settings.initialization,
            )

    def _generator_losses(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the generator's loss and its terms, shape ``(4,)``, in the order of :data:`CURVES`."""
        settings = self.synthesis
        looks: AbstractContextManager[list[tuple[Tensor, Tensor, Tensor]]] = nullcontext([])
        if settings.statistics_weight:  # hooks take a while, and let compiled experts run eagerly
            looks = batch_norm_inputs(self.ensemble.experts)
        with looks as layers:
            logits = self.ensemble(images)
        statistics = divergence = images.new_zeros(())
        if settings.statistics_weight:
            statistics = statistics + inversion(layers) / (len(self.weights) if settings.mean_statistics else 1)
        if settings.divergence_weight:
            divergence = boundary_support(
                self.student(images), logits, settings.divergence_temperature, settings.only_disagreeing
            )
        recognised = (hard_label_cross_entropy if settings.hard_labels else F.cross_entropy)(logits, labels)
        loss = settings.statistics_weight * statistics + settings.label_weight * recognised
        return torch.stack([loss - settings.divergence_weight * divergence, statistics, recognised, divergence])

    @property
    def weights(self) -> Tensor:
        """The experts' weights in the ensemble, shape ``(E,)``."""
        return cast(Tensor, self.ensemble.gate.weights)

    def _reweigh(self, images: Tensor, labels: Tensor, size: float) -> None:
        """Step the ensemble's weights down the cross-entropy of these images, equally on all ranks."""
        with torch.no_grad():
            opinions = self.ensemble.experts(images)
        weights = self.weights.clone().requires_grad_(True)
        loss = F.cross_entropy(functional_call(self.ensemble.gate, {"weights": weights}, opinions), labels)
        (gradient,) = torch.autograd.grad(loss, weights)
        gradient = cast(Tensor, self.trainer.strategy.reduce(gradient, reduce_op="mean"))
        self.weights.copy_(signed_step(weights, gradient, -size))

    def _update_student(self) -> None:
        """Update the student once."""
        settings = self.learning
        images, teacher_logits = self.pool.draw(_own_size(settings.batch_size), self._random)
        if settings.view:
            images = settings.view(images, self._random)
        images = self._hardened(images)
        if not self._logits_last:
            teacher_logits = self._ensemble_logits(images)
        logits = self.student(images)
        loss = knowledge_distillation(logits, teacher_logits, settings.temperature)
        self.descend(cast(list[Any], self.optimizers())[0], loss)
        self.record("loss", loss)
        self.record("agreement", (logits.argmax(-1) == teacher_logits.argmax(-1)).float().mean())

    @torch.no_grad()
    def _ensemble_logits(self, images: Tensor) -> Tensor:
        """Return the ensemble's logits ``(B, C)`` of pixels ``(B, channels, H, W)``."""
        return cast(Tensor, self.ensemble(images))

    def _hardened(self, images: Tensor) -> Tensor:
        """Move images one step up the quantity that ``pixel_direction`` names, unless the step is 0."""
        settings = self.learning
        if not settings.pixel_step:
            return images
        images = images.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(self._ascended(images), images)
        return signed_step(images, gradient, settings.pixel_step)

    def _ascended(self, images: Tensor) -> Tensor:
        """Return the quantity whose gradient moves images."""
        settings, logits = self.learning, self.ensemble(images)
        match settings.pixel_direction:
            case "random":
                return output_diversification(logits, settings.temperature, self._random)
            case "student":
                with held_statistics(self.student):
                    return knowledge_distillation(self.student(images), logits, settings.temperature)


def _better(best: tuple[Tensor, Tensor] | None, images: Tensor, losses: Tensor) -> tuple[Tensor, Tensor]:
    """Return the images and losses with the smaller first loss, without waiting for the device."""
    if best is None:
        return images, losses
    better = losses[0] < best[1][0]
    return torch.where(better, images, best[0]), torch.where(better, losses, best[1])


def _own_size(batch_size: int) -> int:
    """Return the size of this rank's part of a global batch: at least 2, because of BatchNorm."""
    return max(2, batch_size // world_size())
