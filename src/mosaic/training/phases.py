"""Run one piece of training in a fresh, silent Lightning Trainer made from the user's ``trainer:`` section."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
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

from mosaic.errors import MosaicError
from mosaic.instantiation import instantiate
from mosaic.training.blocks import SizedBatches
from mosaic.training.dry_run import DryRun
from mosaic.training.signals import Heeded, leave_if_asked
from mosaic.training.silence import COMPILERS_WARNING, silence
from mosaic.training.task import Task
from mosaic.training.tuning import freed_afterwards, tuned

OWNED_BY_PHASES = {
    "logger": None,
    "max_epochs": None,
    "min_epochs": None,
    "max_steps": -1,
    "min_steps": None,
    "max_time": None,
    "check_val_every_n_epoch": 1,
    "val_check_interval": None,
    "limit_val_batches": None,
    "limit_test_batches": None,
    "limit_predict_batches": None,
    "log_every_n_steps": None,
    "reload_dataloaders_every_n_epochs": 0,
    "use_distributed_sampler": True,
    "inference_mode": True,
    "default_root_dir": None,
    "enable_autolog_hparams": True,
    "model_registry": None,
    "enable_checkpointing": None,
    "enable_progress_bar": None,
    "enable_model_summary": None,
    "num_sanity_val_steps": None,
    "limit_train_batches": None,
    "overfit_batches": 0.0,
    "accumulate_grad_batches": 1,
    "barebones": False,
}
"""Keys of ``trainer:`` that each phase sets for itself, with the value that asks for nothing; null asks for nothing."""


def check_owned_by_phases(trainer: Mapping[str, Any]) -> None:
    """Refuse what would be overruled by every phase, or have no effect in it.

    Args:
        trainer: the ``trainer:`` section.

    Raises:
        MosaicError: a key is set that belongs to the phases.
    """
    for key, unset in OWNED_BY_PHASES.items():
        value = trainer.get(key, unset)
        if value != unset and value is not None and (unset is True or value is not False):
            raise MosaicError(
                f"trainer.{key} belongs to the phases of a run and cannot be set: remove it "
                "(steps are set under federation.schedule and algorithm, logs go to the run directory)"
            )


_QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "max_epochs": 1,
}


Company = Callable[[Task, SizedBatches, int], AbstractContextManager[None]]
"""Brings other processes into a phase of this task, these batches and this seed."""


def _alone(*_: object) -> AbstractContextManager[None]:
    return nullcontext()


class PhaseRunner:
    """Trains tasks, each in a Trainer of its own.

    Args:
        template: the parsed ``trainer:`` section. Objects are given as ``{"class_path": ..., "init_args": ...}`` and
            made anew for every phase, because Lightning binds callbacks and strategies to one Trainer.
        channels_last: whether convolutions see images with the channels last in memory.
        compile: whether networks are compiled with ``torch.compile``.
        stacks_experts: whether the server evaluates experts of one architecture side by side.

    Raises:
        MosaicError: the template sets a key that belongs to the phases.
    """

    def __init__(
        self,
        template: Mapping[str, Any] | None = None,
        channels_last: bool = False,
        compile: bool = False,
        stacks_experts: bool = False,
    ) -> None:
        check_owned_by_phases(template or {})
        given = {key: value for key, value in (template or {}).items() if key not in OWNED_BY_PHASES}
        if isinstance(given.get("profiler"), str):
            raise MosaicError(
                f"trainer.profiler: {given['profiler']} prints its table at the end of every phase, where nobody sees "
                "it: give a class with a folder, as class_path lightning.pytorch.profilers.SimpleProfiler with "
                "init_args dirpath and filename"
            )
        if str(given.get("precision")) in ("16-true", "bf16-true", "64-true", "64"):
            raise MosaicError(
                f"trainer.precision: {given['precision']} would give models another type than messages have: "
                "use bf16-mixed, 16-mixed or 32-true"
            )
        plugins = given.get("plugins") or []
        given["plugins"] = plugins if isinstance(plugins, list) else [plugins]
        self.dry_run = DryRun(bool(given.pop("fast_dev_run", False)))
        self.limit, self.limit_batch, self.limit_images = self.dry_run.steps, self.dry_run.batch, self.dry_run.images
        self._template, self._compile = given, compile
        self.channels_last, self.stacks_experts = channels_last, stacks_experts
        self._company: Company = _alone

    def in_company(self, company: Company, size: int, environment: Mapping[str, Any]) -> "PhaseRunner":
        """Return a runner like this one, whose phases several processes train data-parallel, each on its one device.

        Args:
            company: given task, batches and seed, lets the others train too for as long as its block lasts.
            size: how many processes there are.
            environment: the plugin that tells Lightning of them, as ``class_path`` and ``init_args``; in place of
                other environments.
        """
        plugins = [plugin for plugin in self._template["plugins"] if not _is_environment(plugin)]
        settings = {"strategy": "ddp", "num_nodes": size, "plugins": [*plugins, environment]}
        template = {**self._template, **settings, "fast_dev_run": self.dry_run.on}
        runner = PhaseRunner(template, self.channels_last, self._compile, self.stacks_experts)
        runner._company = company
        return runner

    @cached_property
    def device(self) -> torch.device:
        """The device on which this process trains."""
        return torch.device(self._probe.strategy.root_device)

    @cached_property
    def rank(self) -> int:
        """Which of the processes that train together this is; the first one writes."""
        return int(self._probe.global_rank)

    @property
    def processes(self) -> int:
        """How many processes train each phase together."""
        return int(self._probe.world_size)

    @property
    def is_watched(self) -> bool:
        """Whether the user has callbacks in every phase."""
        return bool(self._template.get("callbacks"))

    @property
    def by_slurm(self) -> bool:
        """Whether Lightning expects SLURM to have started the processes that train together."""
        return isinstance(getattr(self._probe.strategy, "cluster_environment", None), SLURMEnvironment)

    @cached_property
    def _data_parallel(self) -> bool:
        return isinstance(self._probe.strategy, DDPStrategy)

    @cached_property
    def _probe(self) -> Trainer:
        """A Trainer that never trains, to ask what Lightning makes of the template."""
        with silence():
            probe = self._trainer(self._template)
        if isinstance(probe.strategy.launcher, _MultiProcessingLauncher):
            raise MosaicError(
                f"trainer.devices, trainer.strategy: {probe.world_size} devices would start new processes for every "
                "phase, which cannot share a run, as Lightning always does in notebooks: give the command in a "
                "terminal, with --trainer.strategy ddp, or share clients out over processes with --trainer.devices 1 "
                f"--executor RanksExecutor --executor.workers {probe.world_size}"
            )
        return probe

    def precision(self) -> AbstractContextManager[Any]:
        """Return a block in which networks that are asked, and not trained, answer in the Trainer's precision."""
        return self._probe.precision_plugin.forward_context()

    def run(self, task: Task, batches: SizedBatches, seed: int) -> dict[str, Tensor]:
        """Train a task on every batch once.

        Args:
            task: what to train; it is trained in place and lies on the CPU afterwards.
            batches: whole batches, each the global one; under DDP the iterable hands every rank its share. Not a list,
                which Lightning takes for several loaders.
            seed: of all randomness inside the phase.

        Returns:
            What the task recorded, one value per step, each of shape ``(steps,)``.

        Raises:
            Preempted: a signal has asked this process to leave.
        """
        leave_if_asked()
        with freed_afterwards(), self._company(task, batches, seed):
            return self._run(task, batches, seed)

    def _run(self, task: Task, batches: SizedBatches, seed: int) -> dict[str, Tensor]:
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # torch.manual_seed also asks for devices that are not here
        else:
            torch.manual_seed(seed)
        task.train()
        with silence(), self._laid_out(task):
            trainer = self._trainer(task.amend_trainer(self._template, self._data_parallel))
            trainer.fit(task, train_dataloaders=task.feed(Heeded(batches)))
        synchronise(task)
        task.trainer = None
        return task.recorded()

    @contextmanager
    def _laid_out(self, task: Task) -> Iterator[None]:
        """Arrange the task's networks for speed while it is trained; messages and snapshots see plain tensors."""
        if self._compile:
            warnings.filterwarnings("ignore", COMPILERS_WARNING)  # forgotten when the phase ends, with the others
            for network in task.networks():
                network.compile()
        if not self.channels_last:
            yield
            return
        task.to(memory_format=torch.channels_last)
        try:
            yield
        finally:
            task.to(memory_format=torch.contiguous_format)

    def _trainer(self, template: Mapping[str, Any]) -> Trainer:
        try:
            settings = {key: instantiate(value) for key, value in template.items()}
            told = any(isinstance(plugin, ClusterEnvironment) for plugin in settings["plugins"])
            if torch.distributed.is_initialized() and settings.get("devices") == 1 and not told:
                settings["plugins"].append(LightningEnvironment())
            return Trainer(**{**settings, **_QUIET})
        except (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError) as error:
            said = " ".join(str(error).split())
            raise MosaicError(f"trainer: Lightning refuses these settings: {said}") from error


@contextmanager
def many_phases() -> Iterator[None]:
    """Make phases by the hundred fast and silent, for as long as the block lasts."""
    with silence(), tuned():
        yield


def _is_environment(plugin: Any) -> bool:
    """Whether a plugin tells Lightning what other processes there are."""
    return isinstance(plugin, Mapping) and str(plugin.get("class_path")).endswith("Environment")


def synchronise(task: Task) -> None:
    """Give every rank the buffers of rank 0.

    DistributedDataParallel keeps parameters equal, but it sends buffers (BatchNorm statistics, moving averages) at the
    *start* of a forward pass, so after the last step they differ between ranks.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    on_gpu = torch.distributed.get_backend() == "nccl"
    for tensor in task.state_dict().values():
        carrier = tensor.cuda() if on_gpu else tensor
        torch.distributed.broadcast(carrier, src=0)
        tensor.copy_(carrier)
