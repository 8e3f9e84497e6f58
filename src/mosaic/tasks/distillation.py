"""Distil a teacher into one student on generated images (docs/method.md, section 6)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mosaic.errors import (
    MosaicError,
    is_number,
    require_a_batch,
    require_at_least_zero,
    require_below_one,
    require_count,
    require_kinds,
    require_positive,
    require_share,
)
from mosaic.losses.distillation import mosaic_distillation
from mosaic.nets.augmentation import Augmentation
from mosaic.nets.batchnorm import freeze_statistics
from mosaic.nets.classifier import Classifier
from mosaic.nets.moving_average import MovingAverage
from mosaic.training.manual import LossTask
from mosaic.training.optimizers import adam
from mosaic.transfer import send


@dataclass(frozen=True)
class DistillationSettings:
    """How the student learns from the teacher, and on which images.

    Attributes:
        steps: student updates (released: 1500 to 2500).
        batch_size: generated images per update (released: 320).
        pool_size: generated images in the pool that batches come from; the teacher labels each once (DENSE replays such
            a pool; the release has none).
        learning_rate: of Adam (released: 1e-4 for CIFAR-10, 1e-5 for CIFAR-100).
        temperature: t of the soft targets (released: 1).
        alpha: share of the soft targets against pseudo-labels (released: 0.8).
        beta: weight of the Jensen-Shannon divergence (released: 1).
        origin_weight: weight of an image's origin beside the teacher's logits; 0 ignores it (released). One half is
            ours: with 1, students were 3 points worse on colour photographs and no better on digits.
        origin_epsilon: added to a class's share at the origin before the logarithm (ours).
        balanced: whether pseudo-labels are drawn equally often (ours); otherwise images come as generators make them
            (released).
        generator_balance: gamma; client i's generator is drawn in proportion to ``n[i]^gamma`` (ours; 0 draws all
            equally often).
        min_confidence: the smallest probability of its most likely class, according to the teacher, with which an image
            is kept; 0 keeps all (released).
        shift: the largest shift of an image in either direction before the student sees it, as a share of its shorter
            side and at least a pixel; the teacher sees it in place (ours: an eighth, CIFAR's usual four pixels of 32;
            released: 0, no shift).
        view: an augmentation of the student's images that replaces ``shift`` (DENSE, arXiv 2112.12371; released: none).
        noise: standard deviation of Gaussian noise on the pixels, after the shift; the teacher sees images without it
            (released: 0, our default; 0.1 in our configurations of grey images, on photographs it costs 2 points).
        average_decay: of a moving average of the student that becomes the global model (ours: 0.99); 0 takes the last
            weights (released).
        interpolation: the student's share in the model that clients validate; the rest is the model that it started
            from, parameter by parameter (WiSE-FT, arXiv 2109.01903); 1 means the student itself (released). Of several
            shares they take the one that they like best, or the first where nobody can judge (ours: 1 and a half, since
            weights half way often do better than either end, and worse where the average is poor).
        freeze_statistics: whether the student's BatchNorm statistics stay unchanged (released).
    """

    steps: int = 600
    batch_size: int = 128
    pool_size: int = 6000
    learning_rate: float = 2e-3
    temperature: float = 1.0
    alpha: float = 0.8
    beta: float = 0.0
    origin_weight: float = 0.5
    origin_epsilon: float = 0.01
    balanced: bool = True
    generator_balance: float = 0.5
    min_confidence: float = 0.0
    shift: float = 0.125
    view: Augmentation | None = None
    noise: float = 0.0
    average_decay: float = 0.99
    interpolation: float | tuple[float, ...] = (1.0, 0.5)
    freeze_statistics: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        section = "algorithm.distillation"
        require_count(section, steps=self.steps, batch_size=self.batch_size, pool_size=self.pool_size)
        require_a_batch(section, self.batch_size)
        require_positive(
            section,
            learning_rate=self.learning_rate,
            temperature=self.temperature,
            origin_epsilon=self.origin_epsilon,
        )
        require_at_least_zero(
            section,
            alpha=self.alpha,
            beta=self.beta,
            origin_weight=self.origin_weight,
            generator_balance=self.generator_balance,
            noise=self.noise,
        )
        require_share(section, alpha=self.alpha, shift=self.shift)
        require_kinds(section, balanced=(self.balanced, bool), freeze_statistics=(self.freeze_statistics, bool))
        if not self.shares or not all(is_number(share) and 0 < share <= 1 for share in self.shares):
            raise MosaicError(f"{section}.interpolation: expected shares in (0, 1], got {self.interpolation}")
        require_below_one(section, min_confidence=self.min_confidence, average_decay=self.average_decay)

    @property
    def shares(self) -> tuple[float, ...]:
        """Return the student's shares in the models that clients are offered."""
        return tuple(self.interpolation) if isinstance(self.interpolation, Iterable) else (self.interpolation,)

    def view_of(self, height: int, width: int) -> Augmentation:
        """Return the augmentation of the student's images, which shifts them by a share of their shorter side.

        >>> [DistillationSettings().view_of(*sides).padding for sides in ((4, 4), (28, 28), (64, 32), (1, 64))]
        [1, 4, 4, 0]
        """
        side = min(height, width)
        shifts = self.shift > 0 and side > 1  # an image of one row would be shifted out of sight
        return self.view or Augmentation(padding=max(1, int(self.shift * side + 0.5)) if shifts else 0)


class LabelledBatch(NamedTuple):
    """Generated images with the teacher's logits.

    Attributes:
        images: pixels in ``[0, 1]``, shape ``(B, channels, H, W)``.
        teacher_logits: shape ``(B, C)``, without gradient.
    """

    images: Tensor
    teacher_logits: Tensor


class DistillationTask(LossTask):
    """Train a student to match the teacher's logits.

    The teacher labels images where they are generated, once per image and not once per step. This task sees tensors
    only, so that any teacher and any source of images fits.

    Args:
        student: the classifier, trained in place.
        settings: how to train.
        seed: of the student's augmentation; each rank adds its number.
    """

    def __init__(self, student: Classifier, settings: DistillationSettings, seed: int = 0) -> None:
        super().__init__()
        self.student, self.settings = student, settings
        self.average = MovingAverage(student, settings.average_decay) if settings.average_decay else None
        self._seed, self._random = seed, torch.Generator()

    def on_fit_start(self) -> None:
        """Give every rank its own augmentation."""
        self._random.manual_seed(self._seed + self.global_rank)

    def on_train_epoch_start(self) -> None:
        """Freeze the student's BatchNorm statistics if the settings say so."""
        if self.settings.freeze_statistics:
            freeze_statistics(self.student)

    def loss(self, batch: LabelledBatch) -> Tensor:
        """Return the distillation loss of one batch."""
        settings, teacher_logits = self.settings, batch.teacher_logits
        images = settings.view_of(*batch.images.shape[-2:])(batch.images, self._random)
        if settings.noise:
            images = images + settings.noise * send(torch.randn(images.shape, generator=self._random), images.device)
        logits = self.student(images)
        loss = mosaic_distillation(logits, teacher_logits, settings.temperature, settings.alpha, settings.beta)
        self.record("loss", loss)
        self.record("agreement", (logits.argmax(-1) == teacher_logits.argmax(-1)).float().mean())
        return loss

    def after_step(self) -> None:
        """Update the moving average."""
        if self.average is not None:
            self.average.update(self.student)

    def captured_networks(self) -> Iterable[nn.Module]:
        """Return the student."""
        return [self.student]

    def configure_optimizers(self) -> Optimizer:
        """Return Adam over the student's parameters."""
        return adam(self.student.parameters(), self.settings.learning_rate)

    def trained_student(self) -> Classifier:
        """Return the student's moving average, or the student where there is none."""
        if self.average is None:
            return self.student
        average = self.average.corrected()
        assert isinstance(average, Classifier)
        return average.requires_grad_(True)
