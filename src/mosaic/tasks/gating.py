"""Train a gate (docs/method.md, section 5)."""

from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from mosaic.nets.moving_average import MovingAverage
from mosaic.training.manual import LossTask
from mosaic.training.optimizers import adam


class GatingTask(LossTask):
    """Fit a gate to what it is asked about, with class-balanced cross-entropy.

    These are the experts' logits for labelled images or prototypes; a linear head asks about features alone.

    Args:
        gate: maps a batch to logits ``(B, C)``; trained in place.
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

    def after_step(self) -> None:
        """Update the moving average."""
        self.average.update(self.gate)

    def configure_optimizers(self) -> Optimizer:
        """Return Adam over the gate's trainable parameters."""
        return adam((p for p in self.gate.parameters() if p.requires_grad), self._learning_rate)

    def trained_gate(self) -> nn.Module:
        """Return the moving average of the gate, frozen and in eval mode."""
        return self.average.corrected()
