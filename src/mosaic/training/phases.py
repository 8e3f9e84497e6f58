"""Run one piece of training in a fresh, silent Lightning Trainer made from the user's ``trainer:`` section."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from inspect import signature
from typing import Any

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from torch import Tensor

from mosaic.errors import MosaicError, require_at_least_zero
from mosaic.training.blocks import SizedBatches
from mosaic.training.cuda_graphs import GraphCache
from mosaic.training.dry_run import DryRun
from mosaic.training.instantiation import instantiate
from mosaic.training.signals import Interruptible, bind_ranks, leave_if_asked, leaving_while_ranks_gather
from mosaic.training.silence import COMPILERS_WARNING, silence
from mosaic.training.task import Task
from mosaic.training.tuning import freed_afterwards, tuned

log = logging.getLogger(__name__)
OWNED_BY_PHASES: dict[str, Any] = {
    key: signature(Trainer).parameters[key].default
    for key in (
        *("logger", "max_epochs", "min_epochs", "max_steps", "min_steps", "max_time", "limit_train_batches"),
        *("limit_val_batches", "limit_test_batches", "limit_predict_batches", "overfit_batches", "val_check_interval"),
        *("check_val_every_n_epoch", "num_sanity_val_steps", "log_every_n_steps", "enable_checkpointing"),
        *("enable_progress_bar", "enable_model_summary", "accumulate_grad_batches", "inference_mode"),
        *("use_distributed_sampler", "reload_dataloaders_every_n_epochs", "default_root_dir"),
        *("enable_autolog_hparams", "model_registry", "barebones"),
    )
}
"""Keys of ``trainer:`` that every phase sets itself, with Lightning's defaults; a null is accepted for each of them."""

_QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "max_epochs": 1,
}


_USUAL: dict[str, Any] = {
    **dict.fromkeys(("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches"), 1.0),
    "val_check_interval": 1.0,
    "log_every_n_steps": 50,
}
"""What Lightning takes where these keys are not given, and phases too."""


def check_owned_by_phases(trainer: Mapping[str, Any]) -> None:
    """Raise :class:`MosaicError` if the ``trainer:`` section sets a key that belongs to the phases to another value."""
    for key, unset in OWNED_BY_PHASES.items():
        value = trainer.get(key, unset)
        asks = value != unset and value is not None and (unset is True or value is not False)
        if asks and not _is_alike(value, _USUAL.get(key), _QUIET.get(key)):
            raise MosaicError(
                f"trainer.{key} belongs to the phases of a run and cannot be set: remove it "
                "(steps are set under federation.schedule and algorithm, logs go to the run directory)"
            )


def _is_alike(value: object, *accepted: object) -> bool:
    """Whether a value is one of others, of the same type: 1.0 is all batches, and 1 is one batch."""
    return any(type(value) is type(each) and value == each for each in accepted)


class PhaseRunner:
    """Trains each task in a Trainer of its own.

    Args:
        template: the parsed ``trainer:`` section. Objects are given as ``{"class_path": ..., "init_args": ...}`` and
            made anew for every phase, because Lightning binds callbacks and strategies to one Trainer.
        channels_last: whether convolutions see images with the channels last in memory.
        compile: whether ``torch.compile`` compiles networks.
        cuda_graphs: whether GPUs replay the passes of classifiers as CUDA graphs.

    Attributes:
        dry_run: the limits of this run, if it is a dry run.

    Raises:
        MosaicError: the template sets a key that belongs to the phases, or one that cannot work.
    """

    def __init__(
        self,
        template: Mapping[str, Any] | None = None,
        channels_last: bool = False,
        compile: bool = False,
        cuda_graphs: bool = False,
    ) -> None:
        check_owned_by_phases(template or {})
        given = {key: value for key, value in (template or {}).items() if key not in OWNED_BY_PHASES}
        if isinstance(given.get("profiler"), str):
            raise MosaicError(
                f"trainer.profiler: {given['profiler']} prints its table at the end of every phase, where nobody sees "
                "it: give a class with a folder, as class_path lightning.pytorch.profilers.SimpleProfiler with "
                "init_args dirpath and filename"
            )
        _check_precision(given.get("precision"))
        if compile and cuda_graphs:
            raise MosaicError("model.compile, model.cuda_graphs: a network is compiled or captured: set one of them")
        require_at_least_zero("trainer", gradient_clip_val=given.get("gradient_clip_val") or 0)
        plugins = given.get("plugins") or []
        given["plugins"] = plugins if isinstance(plugins, list) else [plugins]
        dry_run = given.pop("fast_dev_run", False)
        if dry_run not in (True, False, None):
            raise MosaicError(
                f"trainer.fast_dev_run: expected true or false, got {dry_run}: a dry run has one batch of every phase"
            )
        self.dry_run = DryRun(bool(dry_run))
        self._template, self._compile, self.channels_last = given, compile, channels_last
        self._graphs = GraphCache() if cuda_graphs else None

    @cached_property
    def device(self) -> torch.device:
        """The device of this process."""
        return torch.device(self._probe.strategy.root_device)

    @cached_property
    def rank(self) -> int:
        """The rank of this process among those that train together; rank 0 writes."""
        return int(self._probe.global_rank)

    @property
    def processes(self) -> int:
        """The number of processes that train together."""
        return int(self._probe.world_size)

    @property
    def scales_losses(self) -> bool:
        """Whether losses are scaled, since gradients have 16 bits of a small range; plugins may ask for it too."""
        by_name = str(self._template.get("precision")) in ("16", "16-mixed")
        return by_name or getattr(self._probe.precision_plugin, "scaler", None) is not None

    @property
    def is_watched(self) -> bool:
        """Whether the user has callbacks in every phase."""
        return bool(self._template.get("callbacks"))

    @property
    def by_slurm(self) -> bool:
        """Whether SLURM has started the processes that train together, as far as Lightning knows."""
        return isinstance(getattr(self._probe.strategy, "cluster_environment", None), SLURMEnvironment)

    @cached_property
    def _data_parallel(self) -> bool:
        return isinstance(self._probe.strategy, DDPStrategy)

    @cached_property
    def _probe(self) -> Trainer:
        """A Trainer that never trains; it tells what Lightning makes of the template."""
        with silence():
            probe = self._trainer(self._template)
        _check_precision(probe.precision_plugin.precision)
        if isinstance(probe.strategy.launcher, _MultiProcessingLauncher):
            raise MosaicError(
                f"trainer.devices, trainer.strategy: {probe.world_size} devices would start new processes for every "
                "phase, which cannot share a run, as Lightning always does in notebooks: give the command in a "
                "terminal, with --trainer.strategy ddp, or share clients out over processes with --trainer.devices 1 "
                f"--executor RanksExecutor --executor.workers {probe.world_size}"
            )
        return probe

    def precision(self) -> AbstractContextManager[Any]:
        """Return a context in which networks run in the Trainer's precision outside training."""
        return self._probe.precision_plugin.forward_context()

    def run(self, task: Task, batches: SizedBatches, seed: int) -> dict[str, Tensor]:
        """Train a task on every batch once.

        Args:
            task: trained in place; its tensors are on the CPU afterwards.
            batches: global batches; under DDP the iterable gives every rank its share.
            seed: of all randomness inside the phase.

        Returns:
            The task's curves, each of shape ``(steps,)``.

        Raises:
            Preempted: a signal has asked this process to leave.
        """
        leave_if_asked()
        with freed_afterwards():
            return self._run(task, batches, seed)

    def _run(self, task: Task, batches: SizedBatches, seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        task.train()
        with silence(), self._laid_out(task), self._captured(task):
            trainer = self._trainer(task.amend_trainer(self._template, self._data_parallel))
            with self._gathered(trainer):
                trainer.fit(task, train_dataloaders=task.feed(Interruptible(batches)))
        task.trainer = None
        return task.recorded()

    def _gathered(self, trainer: Trainer) -> AbstractContextManager[None]:
        """Return a context in which the processes that train together find each other, if they have not yet."""
        if not self._data_parallel or self.processes == 1 or torch.distributed.is_initialized():
            return nullcontext()
        bind_ranks()
        log.info("waiting until the %d processes that train together are there", self.processes)
        return leaving_while_ranks_gather(lambda: getattr(trainer.strategy.launcher, "procs", []))

    @contextmanager
    def _laid_out(self, task: Task) -> Iterator[None]:
        """Compile the task's networks and lay out their weights for the phase; afterwards all tensors are plain."""
        if self._compile:
            warnings.filterwarnings("ignore", COMPILERS_WARNING)  # until silence() ends
            for network in task.networks():
                network.compile()
        if not self.channels_last:
            yield
            return
        task.to(self.device)  # there it takes no time
        task.lay_out(torch.channels_last)
        try:
            yield
        finally:
            task.lay_out(torch.contiguous_format)

    def _captured(self, task: Task) -> AbstractContextManager[None]:
        """Replay the passes of the task's networks, unless ranks exchange gradients while these are computed."""
        if self._graphs is None or self.processes > 1:
            return nullcontext()
        return self._graphs.serving(task.captured_networks())

    def _trainer(self, template: Mapping[str, Any]) -> Trainer:
        try:
            settings = {key: instantiate(value) for key, value in template.items()}
            has_environment = any(isinstance(plugin, ClusterEnvironment) for plugin in settings["plugins"])
            if torch.distributed.is_initialized() and settings.get("devices") == 1 and not has_environment:
                settings["plugins"].append(LightningEnvironment())
            return Trainer(**{**settings, **_QUIET})
        except (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError) as error:
            said = " ".join(str(error).split())
            raise MosaicError(f"trainer: Lightning refuses these settings: {said}") from error


def _check_precision(precision: object) -> None:
    """Refuse a precision, asked for by name or by a plugin, in which models cannot become messages."""
    if str(precision) in ("16-true", "bf16-true", "64-true", "64"):
        raise MosaicError(
            f"trainer.precision: {precision} would give models another type than messages have: "
            "use bf16-mixed, 16-mixed or 32-true"
        )


@contextmanager
def many_phases() -> Iterator[None]:
    """Run hundreds of phases inside the block fast and in silence."""
    with silence(), tuned():
        yield
