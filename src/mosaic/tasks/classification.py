"""Train a classifier on labelled images, as every client does in every round."""

from collections.abc import Callable, Iterable

from torch import Tensor, nn
from torch.optim import Optimizer

from mosaic.nets.classifier import Classifier
from mosaic.training.manual import LossTask

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
"""Makes an optimiser for parameters; in YAML, a ``class_path`` with the other arguments."""
LocalLoss = Callable[[Classifier, Tensor, Tensor], Tensor]
"""Maps network, pixels ``(B, channels, H, W)`` and labels ``(B,)`` to a scalar."""
View = Callable[[Tensor], Tensor]
"""Maps uint8 images ``(B, channels, H, W)`` to pixels in ``[0, 1]`` on the same device."""


class ClassificationTask(LossTask):
    """Local training.

    Args:
        net: the classifier, trained in place.
        loss: the local objective.
        optimizer: makes the optimiser.
        learning_rate: replaces the optimiser's own rate.
        view: maps stored images to pixels, with or without augmentation.
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

    def captured_networks(self) -> Iterable[nn.Module]:
        """Return the classifier."""
        return [self.net]

    def configure_optimizers(self) -> Optimizer:
        """Return the optimiser with the given learning rate."""
        return with_rate(self._optimizer(self.net.parameters()), self._learning_rate)


def with_rate(optimizer: Optimizer, learning_rate: float) -> Optimizer:
    """Set the learning rate of all of an optimiser's parameters."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    return optimizer
