"""Measure models on the test split. Nothing here returns to an algorithm."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_confusion_matrix

from mosaic.data.images import Images
from mosaic.nets.inference import guesses, predict


@dataclass(frozen=True)
class Measurement:
    """Accuracy and loss on the test split; ``None`` is what was not measured.

    Attributes:
        accuracy: share of test images that the global model gets right.
        loss: mean cross-entropy of the global model in nats.
        confusion: counts of the global model, rows true classes, columns guesses, shape ``(C, C)``; an
            image with logits that name no class is in none.
        own_accuracy: mean over clients that keep models of their own, by training images, of the share that these get
            right.
    """

    accuracy: float | None = None
    loss: float | None = None
    confusion: Tensor | None = None
    own_accuracy: float | None = None

    def __str__(self) -> str:
        """Say how accurate the measured models are."""
        figures = (("test accuracy", self.accuracy), ("own models' test accuracy", self.own_accuracy))
        said = [f"{name} {100 * share:.2f} %" for name, share in figures if share is not None]
        return "  ".join(said) or "test accuracy -"


class Evaluator:
    """Measures models on the test split, and keeps it to itself; without one it measures nothing.

    Args:
        images: test images; a server whose clients are elsewhere may have none.
        num_classes: C.
        device: where to compute.
        limit: use only the first so many images, for dry runs.
    """

    def __init__(self, images: Images, num_classes: int, device: torch.device, limit: int | None = None) -> None:
        self._pixels, self._labels = images.pixels[:limit], images.labels[:limit]
        self._num_classes, self._device = num_classes, device
        self.stages: dict[str, float] = {}

    def observe(self, module: nn.Module, *stages: str) -> None:
        """Keep the test accuracy of one or several models.

        Args:
            module: gives logits ``(B, C)``, or ``(B, E, C)``, which counts as E models.
            stages: what they are called, for example ``"student"``. Where a name has the form ``kind: which``, all
                earlier stages of that kind are forgotten: they are those of another round.
        """
        if len(self._labels) == 0:
            return
        guessed = self._guesses(module)
        columns = guessed.reshape(len(guessed), -1).unbind(1)
        kinds = {stage.split(": ")[0] for stage in stages if ": " in stage}
        self.stages = {name: value for name, value in self.stages.items() if name.split(": ")[0] not in kinds}
        for stage, column in zip(stages, columns, strict=True):
            self.stages[stage] = float((column == self._labels).float().mean())

    def measure(self, model: nn.Module) -> Measurement:
        """Measure the global model."""
        if len(self._labels) == 0:
            return Measurement()
        logits = predict(model, self._pixels, self._device)
        guessed = guesses(logits)
        known = guessed >= 0
        confusion = multiclass_confusion_matrix(guessed[known], self._labels[known], self._num_classes)
        loss = torch.nn.functional.cross_entropy(logits, self._labels)
        return Measurement(float(confusion.diag().sum() / len(self._labels)), float(loss), confusion)

    def measure_own(self, models: Iterable[tuple[nn.Module, int]]) -> float | None:
        """Return the mean accuracy of the clients' own models, each on the whole test split; ``None`` of no model.

        Args:
            models: each with the number of images that its client trains on, by which it weighs.
        """
        correct = total = 0
        if len(self._labels) == 0:
            return None
        for model, images in models:
            correct += images * int((self._guesses(model) == self._labels).sum())
            total += images * len(self._labels)
        return correct / total if total else None

    def _guesses(self, module: nn.Module) -> Tensor:
        """Return each image's most likely class, or -1; logits of many experts are never held for all images."""
        return predict(module, self._pixels, self._device, ask=lambda pixels: guesses(module(pixels)))
