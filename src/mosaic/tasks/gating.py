"""Train a gate on prototypes (METHOD section 5)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from mosaic.nets.moving_average import MovingAverage
from mosaic.training.manual import LossTask
from mosaic.training.optimizers import adam


class GatingTask(LossTask):
    """Fit a gate to labelled expert opinions with class-balanced cross-entropy.

    Args:
        gate: maps expert logits ``(B, E, C)`` to logits ``(B, C)``; trained in place.
        class_weights: weight of every class in the loss, shape ``(C,)``.
        learning_rate: of Adam (released: 1e-3).
        average_decay: of the moving average that becomes the teacher's gate (released: 0.99).
    """

    def __init__(self, gate: nn.Module, class_weights: Tensor, learning_rate: float, average_decay: float) -> None:
        super().__init__()
        self.gate = gate
        self.average = MovingAverage(gate, average_decay)
        self.class_weights: Tensor
        self.register_buffer("class_weights", class_weights)
        self._learning_rate = learning_rate

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Return the cross-entropy of one batch of expert logits ``(B, E, C)`` and labels ``(B,)``."""
        expert_logits, labels = batch
        logits = self.gate(expert_logits)
        loss = F.cross_entropy(logits, labels, weight=self.class_weights)
        self.record("loss", loss)
        self.record("accuracy", (logits.argmax(-1) == labels).float().mean())
        return loss

    def stepped(self) -> None:
        """Follow the gate with its moving average."""
        self.average.update(self.gate)

    def configure_optimizers(self) -> Optimizer:
        """Return Adam over the gate's trainable parameters."""
        return adam((p for p in self.gate.parameters() if p.requires_grad), self._learning_rate)

    def trained_gate(self) -> nn.Module:
        """Return the averaged gate, frozen and in eval mode."""
        return self.average.corrected()


def balanced_class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """Weigh classes so that each that occurs counts the same; the weights of the examples have mean one.

    Args:
        labels: shape ``(N,)``.
        num_classes: C.

    Returns:
        Weights of shape ``(C,)``; 0 for a class without examples.

    >>> balanced_class_weights(torch.tensor([0, 0, 0, 2]), 3)
    tensor([0.6667, 0.0000, 2.0000])
    """
    counts = torch.bincount(labels, minlength=num_classes).float()
    present = counts > 0
    return torch.where(present, len(labels) / (present.sum() * counts.clamp(min=1)), 0.0)
