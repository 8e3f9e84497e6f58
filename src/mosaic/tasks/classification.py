"""Train one classifier on labelled images: what every client does in every round."""

from collections.abc import Callable, Iterable

from torch import Tensor, nn
from torch.optim import Optimizer

from mosaic.nets.classifier import Classifier
from mosaic.training.manual import LossTask

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
"""Makes an optimiser for some parameters; in YAML a ``class_path`` with its other arguments."""
LocalLoss = Callable[[Classifier, Tensor, Tensor], Tensor]
"""Network, pixels ``(B, channels, H, W)`` and labels ``(B,)`` to a scalar."""
View = Callable[[Tensor], Tensor]
"""uint8 images ``(B, channels, H, W)`` to pixels in ``[0, 1]``, on the device where they are."""


class ClassificationTask(LossTask):
    """Local training.

    Args:
        net: the classifier to train, in place.
        loss: what to minimise.
        optimizer: makes the optimiser.
        learning_rate: replaces the optimiser's own.
        view: turns stored images into pixels, with or without augmentation.
    """

    def __init__(
        self, net: Classifier, loss: LocalLoss, optimizer: OptimizerFactory, learning_rate: float, view: View
    ) -> None:
        super().__init__()
        self.net = net
        self._loss = loss
        self._optimizer = optimizer
        self._learning_rate = learning_rate
        self._view = view

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the loss of one batch of stored images ``(B, channels, H, W)`` and labels ``(B,)``."""
        images, labels = batch
        loss = self._loss(self.net, self._view(images), labels)
        self.record("loss", loss)
        return loss

    def configure_optimizers(self) -> Optimizer:
        """Make the optimiser with the rate of this request."""
        optimizer = self._optimizer(self.net.parameters())
        for group in optimizer.param_groups:
            group["lr"] = self._learning_rate
        return optimizer
