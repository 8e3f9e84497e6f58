"""Distil a mixture-of-experts teacher into one student on generated images (METHOD section 6)."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.optim import Adam, Optimizer

from mosaic.losses.distillation import mosaic_distillation
from mosaic.nets.batchnorm import batch_norms
from mosaic.nets.classifier import Classifier
from mosaic.tasks.base import Task


class TaughtImages(NamedTuple):
    """Generated images and what the teacher says of them.

    Attributes:
        images: pixels in ``[0, 1]``, shape ``(B, channels, H, W)``.
        teacher_logits: shape ``(B, C)``, without gradient.
    """

    images: Tensor
    teacher_logits: Tensor


class DistillationTask(Task):
    """Train a student to follow the teacher's logits.

    The teacher speaks where the images are made, once per image and not once per step, so this task sees tensors only:
    any teacher and any source of images fits.

    Args:
        student: the classifier to train, in place.
        temperature: t of the soft targets.
        alpha: share of the soft targets against pseudo-labels.
        beta: weight of the Jensen-Shannon divergence.
        learning_rate: of Adam.
        freeze_statistics: whether the student's BatchNorm layers keep their running statistics (released).
        view: applied to the images before the student sees them; the teacher has seen them plain.
    """

    def __init__(
        self,
        student: Classifier,
        temperature: float,
        alpha: float,
        beta: float,
        learning_rate: float,
        freeze_statistics: bool,
        view: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self._temperature, self._alpha, self._beta = temperature, alpha, beta
        self._learning_rate = learning_rate
        self._freeze_statistics = freeze_statistics
        self._view = view

    def on_train_epoch_start(self) -> None:
        """Hold the BatchNorm statistics of the student where asked to."""
        if self._freeze_statistics:
            for layer in batch_norms(self.student):
                layer.eval()

    def training_step(self, batch: TaughtImages, batch_idx: int) -> Tensor:
        """Return the distillation loss of one batch."""
        images = self._view(batch.images) if self._view else batch.images
        logits = self.student(images)
        loss = mosaic_distillation(logits, batch.teacher_logits, self._temperature, self._alpha, self._beta)
        self.record("loss", loss)
        self.record("agreement", (logits.argmax(-1) == batch.teacher_logits.argmax(-1)).float().mean())
        return loss

    def configure_optimizers(self) -> Optimizer:
        """Return Adam over the student's parameters."""
        return Adam(self.student.parameters(), lr=self._learning_rate)
