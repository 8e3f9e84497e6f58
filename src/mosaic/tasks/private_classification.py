"""Train a classifier by DP-SGD, as a client with a privacy budget does."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mosaic.nets.classifier import Classifier
from mosaic.privacy.dp_sgd import gradient_sums
from mosaic.privacy.noise import SecretNoise
from mosaic.privacy.release import GRID
from mosaic.tasks.classification import OptimizerFactory, View, with_rate
from mosaic.training.manual import ManualTask
from mosaic.transfer import send


class PrivateClassificationTask(ManualTask):
    """Local training with clipped gradients of single images, and noise on their sum.

    Noise and batches come from the client's secret and not from a generator of PyTorch, whose state can be found out
    from its numbers.

    Args:
        net: the classifier, trained in place.
        optimizer: makes the optimiser; whatever it does to a noisy gradient costs nothing.
        learning_rate: replaces the optimiser's own rate.
        view: maps stored images to pixels.
        clipping: largest norm of one image's gradient.
        deviation: of the noise, as a multiple of ``clipping``.
        divisor: of the noisy sum, instead of the size of the batch, which would tell how many images there are.
        noise: of this training alone.
    """

    def __init__(
        self,
        net: Classifier,
        optimizer: OptimizerFactory,
        learning_rate: float,
        view: View,
        clipping: float,
        deviation: float,
        divisor: float,
        noise: SecretNoise,
    ) -> None:
        super().__init__()
        self.net = net
        self._optimizer, self._learning_rate, self._view = optimizer, learning_rate, view
        self._clipping, self._deviation, self._divisor, self._noise = clipping, deviation, divisor, noise

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Take one step down a noisy gradient; a batch may be empty, which the noise hides."""
        images, labels = batch
        optimizer: Any = self.optimizers()
        found = self._sums(images, labels)
        for name, parameter in self.net.named_parameters():
            if parameter.requires_grad:
                around = self._noise.whole_gaussian(
                    f"step {batch_idx} {name}", tuple(parameter.shape), self._deviation * GRID
                )
                noisy = send(around, parameter.device)
                if found:
                    noisy = noisy + found[name]
                parameter.grad = (noisy * (self._clipping / GRID / self._divisor)).to(parameter.dtype)
        optimizer.step()

    def _sums(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if len(labels) == 0:
            return {}
        with torch.no_grad():
            return gradient_sums(self.net, self._view(images), labels, self._clipping)

    def configure_optimizers(self) -> Optimizer:
        """Return the optimiser with the given learning rate."""
        return with_rate(self._optimizer(self.net.parameters()), self._learning_rate)
