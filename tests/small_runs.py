"""What tests of whole runs share: a configuration that is over in seconds, and ways to compare runs."""

import contextlib
import hashlib
import io
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml
from filelock import FileLock
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from mosaic.batches import ShuffledBatches
from mosaic.cli.main import main
from mosaic.data import DirichletPartition, FederatedDataModule, SklearnDigits
from mosaic.model_pool import ClientModels, ModelPool
from mosaic.nets import Blueprint, SmallCNN
from mosaic.nets.classifier import Classifier, ImageShape
from mosaic.nets.inference import to_pixels
from mosaic.runs.rounds import Round, read_rounds
from mosaic.seeding import SERVER, seed_for
from mosaic.training.phases import PhaseRunner
from mosaic.training.task import Task

REPOSITORY = Path(__file__).parent.parent
DIGITS = REPOSITORY / "configs" / "digits.yaml"
TINY = [
    "--algorithm.generation=Adversarial",
    "--algorithm.generation.steps=3",
    "--algorithm.generation.width=4",
    "--algorithm.teacher.head.epochs=2",
    "--algorithm.distillation.steps=3",
    "--algorithm.distillation.pool_size=64",
    "--algorithm.distillation.batch_size=16",
    "--data.partition.num_clients=4",
    "--data.partition.alpha=1",
    "--federation.schedule.local_steps=2",
    "--federation.schedule.collaborative_rounds=1",
    "--federation.schedule.distill_rounds=[1]",
    "--federation.schedule.fine_tune_rounds=0",
]
FOUR_ROUNDS = [
    "--federation.schedule.collaborative_rounds=3",
    "--federation.schedule.distill_rounds=[1,3]",
    "--federation.schedule.fine_tune_rounds=1",
]
"""What a tiny run needs to distil twice, and to go on from somewhere; the last of them fine-tunes."""
TWO_ROUNDS = ["--federation.schedule.collaborative_rounds=2"]
UNSEEN = ["--data.validation_share=0"]
"""No client can say anything against a student, so that every student becomes the global model."""


def tiny_fit(run_dir: Path, *more: str) -> list[str]:
    """Arguments of a run of one round on digits, which distils."""
    return ["fit", "--config", str(DIGITS), *TINY, f"--federation.run_dir={run_dir}", *more]


def fit_arguments(run_dir: Path, algorithm: str, *more: str) -> list[str]:
    """Arguments of a tiny run of any algorithm; but for Mosaic, which has tiny settings here, as it comes."""
    arguments = tiny_fit(run_dir)
    if algorithm != "Mosaic":
        arguments = [argument for argument in arguments if not argument.startswith("--algorithm")]
        arguments.append(f"--algorithm=mosaic.algorithms.{algorithm}")
    return [*arguments, *more]


def fit_other(run_dir: Path, algorithm: str, *more: str) -> Path:
    """Run any algorithm, tiny; the folder is the caller's own."""
    main(fit_arguments(run_dir, algorithm, *more))
    return run_dir


def dry_run(*arguments: str | Path) -> set[str]:
    """Run one batch of every phase; return what was trained, besides the step on which the optimiser is tried."""
    seen: set[str] = set()
    run = PhaseRunner.run

    def noting(phases: PhaseRunner, task: Task, batches: Any, seed: int) -> dict[str, Tensor]:
        seen.add(type(task).__name__)
        return run(phases, task, batches, seed)

    with patch.object(PhaseRunner, "run", noting):
        main([*map(str, arguments), "--trainer.fast_dev_run=true"])
    return seen - {"TrialStep"}


def parsed(*flags: str | Path, command: str = "fit") -> dict[str, Any]:
    """What a command makes of flags, as ``--print_config`` tells it; a path stands for a configuration."""
    given = [part for flag in flags for part in (("--config", str(flag)) if isinstance(flag, Path) else (flag,))]
    told: dict[str, Any] = yaml.safe_load(_print_config(command, *given))
    return told


@cache
def _print_config(*arguments: str) -> str:
    """Parse everything once in a process, since that takes half a second."""
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        main([*arguments, "--print_config"])
    return printed.getvalue()


class SharedRuns:
    """Finished runs that several tests read, each made once in a session; nobody writes into them.

    Args:
        folder: one for all processes of the session.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._found: dict[Path, dict[str, int]] = {}

    def __call__(self, algorithm: str, *more: str) -> Path:
        """Return the folder of a tiny run with these arguments, which the first who asks for it makes."""
        name = hashlib.sha256(repr((algorithm, more)).encode()).hexdigest()[:16]
        run = self._folder / name
        with FileLock(self._folder / f"{name}.lock"):
            if not (run / "summary.json").exists():
                shutil.rmtree(run, ignore_errors=True)
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                    fit_other(run, algorithm, *more)
        self._found.setdefault(run, written(run))
        return run

    def assert_untouched(self) -> None:
        """Fail if somebody has written into one of them."""
        for run, found in self._found.items():
            assert written(run) == found, f"a test has written into the shared run {run}: copy it first"


def written(run: Path) -> dict[str, int]:
    """When each file of a folder was written last; whoever looks whether a run is at work there touches its lock."""
    return {str(file): file.stat().st_mtime_ns for file in run.rglob("*") if file.is_file() and file.name != ".lock"}


def same_models(blueprint: Blueprint, num_clients: int) -> ModelPool:
    """The pool in which every client runs the global network."""
    return ClientModels().pool(blueprint, num_clients, seed=0)


def pool_of_kind(kind: str, **settings: Any) -> ModelPool:
    """A pool of four clients whose networks are the ``same``, or differ in ``widths`` or ``architectures``."""
    differ: dict[str, dict[str, Any]] = {
        "same": {},
        "widths": {"levels": [1.0, 0.5]},
        "architectures": {"models": ["global", LinearNet]},
    }
    blueprint = Blueprint(partial(SmallCNN, width=2), (1, 8, 8), 3, (0.5,), (0.5,))
    return ClientModels(**differ[kind], **settings).pool(blueprint, 4, seed=0)


def initial_model() -> dict[str, Tensor]:
    """What a tiny run begins with."""
    weights = digits(4).blueprint(partial(SmallCNN, width=16)).initial(seed_for(0, 0, SERVER, "init"))
    return {f"net.{name}": tensor for name, tensor in weights.items()}


def final_model(run_dir: Path) -> dict[str, Tensor]:
    return torch.load(run_dir / "global.ckpt", weights_only=True)["state_dict"]


def rows_without_time(run_dir: Path, extended: bool = False) -> list[Round]:
    """A run that is given more rounds has sent its last model to be judged once more than one that had them all."""
    left_out = ("seconds", "bytes") if extended else ("seconds",)
    return [{key: row[key] for key in row if not any(word in key for word in left_out)} for row in read_rounds(run_dir)]


def summary(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "summary.json").read_text())


def failed(run_dir: Path) -> list[dict[str, Any]]:
    """Who has not answered what, in which round, and why."""
    return summary(run_dir)["failed"]


def stages(run_dir: Path) -> dict[str, float]:
    return summary(run_dir)["stages"]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Same tensors of the same names, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def assert_same_run(one: Path, other: Path, extended: bool = False) -> None:
    """Same final tensors, rows and stage accuracies, bit for bit; only times may differ."""
    assert same(final_model(one), final_model(other))
    assert rows_without_time(one, extended) == rows_without_time(other, extended)
    assert stages(one) == stages(other)


def digits(num_clients: int) -> FederatedDataModule:
    """The data of a tiny run."""
    return FederatedDataModule(SklearnDigits(), DirichletPartition(num_clients, 1.0), batch_size=32)


def take_steps(net: Classifier, data: FederatedDataModule, client: int, round: int, steps: int) -> None:
    """Train as a client of a tiny run does in one round, in a bare loop."""
    optimizer, own = SGD(net.parameters(), lr=0.1, weight_decay=1e-4), data.client(client)
    batches = ShuffledBatches(
        *(own.images.pixels, own.images.labels),
        batch_size=data.batch_size,
        steps=steps,
        seed=seed_for(0, round, client, "train/batches"),
        indices=own.train,
    )
    net.train()
    for images, labels in batches:
        optimizer.zero_grad()
        cross_entropy(net(to_pixels(images)), labels).backward()
        optimizer.step()


class LinearNet(Classifier):
    """Logistic regression: the smallest classifier, and one without BatchNorm."""

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(image_shape, num_classes)
        self.body = nn.Flatten()
        self.head = nn.Linear(math.prod(image_shape), num_classes)


class SevenLogits(LinearNet):
    """A network that does not ask how many classes there are."""

    def __init__(self, image_shape: ImageShape, num_classes: int) -> None:
        super().__init__(image_shape, 7)


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


def with_killer(task: str, number: int) -> str:
    """The flag by which a run kills itself at the end of a phase's first step: of a task, which of its phases."""
    callback = f'{{"class_path": "tests.small_runs.KillAt", "init_args": {{"task": "{task}", "number": {number}}}}}'
    return f"--trainer.callbacks=[{callback}]"


def run_and_die(arguments: list[str]) -> None:
    """Run the command in a process of its own, which kills itself."""
    done = subprocess.run(
        [sys.executable, "-m", "mosaic", *arguments],
        env={**os.environ, "KILL": "yes", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
