"""What tests of whole runs share: a configuration that is over in seconds, and ways to compare runs."""

import csv
import json
import math
import os
import signal
from pathlib import Path

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from mosaic.cli import main
from mosaic.model_pool import ClientModels, ModelPool
from mosaic.nets import Blueprint
from mosaic.nets.classifier import Classifier, ImageShape

REPOSITORY = Path(__file__).parent.parent
DIGITS = REPOSITORY / "configs" / "digits.yaml"
TINY = [
    "--algorithm.generation.steps=3",
    "--algorithm.generation.width=4",
    "--algorithm.gate.epochs=2",
    "--algorithm.gate.head.epochs=2",
    "--algorithm.distillation.steps=3",
    "--algorithm.distillation.pool_size=64",
    "--algorithm.distillation.batch_size=16",
    "--data.partition.num_clients=4",
    "--data.partition.alpha=1",
    "--federation.schedule.local_steps=2",
    "--federation.schedule.collaborative_rounds=3",
    "--federation.schedule.distill_rounds=[1,3]",
    "--federation.schedule.fine_tune_rounds=1",
]


def tiny_fit(run_dir: Path, *more: str) -> list[str]:
    """Arguments of a four-round run on digits that distils after rounds 1 and 3."""
    return ["fit", "--config", str(DIGITS), *TINY, f"--federation.run_dir={run_dir}", *more]


def fit_other(run_dir: Path, algorithm: str, *more: str) -> Path:
    """Run any algorithm as it comes, without the settings of the tiny run's own."""
    arguments = [argument for argument in tiny_fit(run_dir) if not argument.startswith("--algorithm")]
    main([*arguments, f"--algorithm=mosaic.algorithms.{algorithm}", *more])
    return run_dir


def same_models(blueprint: Blueprint, num_clients: int) -> ModelPool:
    """The pool in which every client runs the global network."""
    return ClientModels().pool(blueprint, num_clients, seed=0)


def final_model(run_dir: Path) -> dict[str, Tensor]:
    return torch.load(run_dir / "global.ckpt", weights_only=True)["state_dict"]


def rows_without_time(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open() as file:
        return [{key: value for key, value in row.items() if "seconds" not in key} for row in csv.DictReader(file)]


def stages(run_dir: Path) -> dict[str, float]:
    return json.loads((run_dir / "summary.json").read_text())["stages"]


def assert_same_run(one: Path, other: Path) -> None:
    """Same final tensors, rows and stage accuracies, bit for bit; only times may differ."""
    ours, theirs = final_model(one), final_model(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert rows_without_time(one) == rows_without_time(other)
    assert stages(one) == stages(other)


class LinearNet(Classifier):
    """Logistic regression: the smallest classifier, and one without BatchNorm."""

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(image_shape, num_classes)
        self.body = nn.Flatten()
        self.head = nn.Linear(math.prod(image_shape), num_classes)


class KillAt(Callback):
    """Kills its own process at the end of the n-th Trainer of one task, so that nothing can be tidied up.

    Args:
        task: class name of the task.
        number: which of its phases, from 1.
    """

    phases = 0

    def __init__(self, task: str, number: int) -> None:
        self.task, self.number = task, number

    def on_train_batch_end(self, trainer: object, pl_module: object, *_: object) -> None:
        if type(pl_module).__name__ != self.task or os.environ.get("KILL") != "yes":
            return
        if self.just_began(trainer):
            KillAt.phases += 1
        if KillAt.phases == self.number:
            os.kill(os.getpid(), signal.SIGKILL)

    @staticmethod
    def just_began(trainer: object) -> bool:
        return trainer.fit_loop.epoch_loop.batch_idx == 0  # type: ignore[attr-defined]
