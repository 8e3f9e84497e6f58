"""The global model for Lightning's ``validate``, ``test`` and ``predict``, and for its checkpoint."""

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torchmetrics import MeanMetric, Metric

from mosaic.errors import MosaicError, require_kinds
from mosaic.nets.blueprint import Blueprint, ClassifierFactory
from mosaic.nets.classifier import versioned
from mosaic.nets.inference import guesses, to_pixels
from mosaic.nets.small_cnn import SmallCNN
from mosaic.tasks.classification import OptimizerFactory


class GlobalClassifier(LightningModule):
    """Hold a run's network and optimiser; evaluate the global model.

    Args:
        net: makes the network from image shape and number of classes.
        optimizer: makes the optimiser of local training; its rate comes from the schedule (released: SGD without
            momentum, weight decay 1e-4).
        channels_last: whether all training of ``fit`` uses the channels-last memory format, which is fastest on tensor
            cores.
        compile: whether all training of ``fit`` compiles its networks with ``torch.compile``, which pays where phases
            are long. Networks that only predict are not compiled.
        cuda_graphs: whether GPUs replay the passes of classifiers in ``fit`` as CUDA graphs, which pays where a step is
            over sooner than its kernels are launched, as with ResNet-18 on 64 images. The network must launch the same
            kernels in every step. Data-parallel phases, generators and private training do without.

    The Trainer's precision and ``channels_last`` also apply to the experts of Mosaic's teacher and to the measurement
    of their accuracies. All other prediction is float32: prototypes, the clients' validation, the evaluation of the
    global model.
    """

    def __init__(
        self,
        net: ClassifierFactory = SmallCNN,
        optimizer: OptimizerFactory = SGD,
        channels_last: bool = False,
        compile: bool = False,
        cuda_graphs: bool = False,
    ) -> None:
        super().__init__()
        require_kinds(
            "model",
            channels_last=(channels_last, bool),
            compile=(compile, bool),
            cuda_graphs=(cuda_graphs, bool),
        )
        self.factory, self.optimizer = net, optimizer
        self.channels_last, self.compiles, self.cuda_graphs = channels_last, compile, cuda_graphs
        self.net: nn.Module | None = None

    def setup(self, stage: str) -> None:
        """Build the network for the data at hand; a checkpoint is loaded into it afterwards."""
        if self.net is None:
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            blueprint: Blueprint = data.blueprint(self.factory)
            self.net = blueprint.build(blueprint.initial(seed=0))
            self.make_metrics(blueprint.num_classes)

    def make_metrics(self, num_classes: int) -> None:
        """Make the metrics of :meth:`test_step` and :meth:`validation_step`."""
        self.accuracy, self.balanced_accuracy = MeanMetric(), BalancedAccuracy(num_classes)
        self.loss = MeanMetric(nan_strategy=math.nan)  # which stays what it is, as in fit

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another network.

        Raises:
            MosaicError: names or shapes of tensors differ.
        """
        own, given = self.state_dict(), checkpoint["state_dict"]
        wrong = sorted(name for name in own if name not in given or given[name].shape != own[name].shape)
        wrong += sorted(name for name in given if name not in own)
        if wrong and (client := checkpoint.get("mosaic", {}).get("client")) is not None:
            raise MosaicError(
                f"--ckpt_path: expected a model of the global network, got client {client}'s own, of another network: "
                f"mosaic.load(run).client_model({client}) gives it in Python, and mosaic export as a file"
            )
        if wrong:
            raise MosaicError(
                f"--ckpt_path: the checkpoint does not fit model.net and the data: {len(wrong)} tensors differ, first "
                f"{wrong[0]}: use the config that the run was started with (config.yaml beside the checkpoint)"
            )
        checkpoint["state_dict"] = versioned(self, given)

    def forward(self, images: Tensor) -> Tensor:
        """Map pixels in ``[0, 1]``, shape ``(B, channels, H, W)``, to logits ``(B, C)``."""
        assert self.net is not None, "setup() builds the network"
        logits: Tensor = self.net(images)
        return logits

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Evaluate one batch of the clients' validation images."""
        self._measure("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Evaluate one batch of test images."""
        self._measure("test", batch)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return class probabilities of one batch, shape ``(B, C)``."""
        return self.forward(to_pixels(batch[0])).softmax(-1)

    def _measure(self, stage: str, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        if len(labels):  # a rank's share of a small last batch may be empty
            logits = self(to_pixels(images))
            right = guesses(logits) == labels
            self.accuracy.update(right.float())
            self.balanced_accuracy.update(right, labels)
            self.loss.update(cross_entropy(logits, labels, reduction="none"))
        for name in ("loss", "accuracy", "balanced_accuracy"):
            self.log(f"{stage}/{name}", getattr(self, name), on_step=False, on_epoch=True)


class BalancedAccuracy(Metric):
    """Mean over classes of the share of their images that are right; classes without images count for nothing.

    Args:
        num_classes: C.
    """

    right: Tensor
    images: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.add_state("right", torch.zeros(num_classes), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros(num_classes), dist_reduce_fx="sum")

    def update(self, right: Tensor, labels: Tensor) -> None:
        """Add images of these labels, both of shape ``(B,)``."""
        self.right += labels[right].bincount(minlength=len(self.right))
        self.images += labels.bincount(minlength=len(self.images))

    def compute(self) -> Tensor:
        """Return the mean."""
        there = self.images > 0
        return (self.right[there] / self.images[there]).mean()
