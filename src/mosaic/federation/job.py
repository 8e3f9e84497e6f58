"""Everything that a run works with: algorithm, executor, data, models and settings, made alike in every process."""

import logging
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mosaic.algorithms.base import Algorithm
from mosaic.client.own_models import OwnModels
from mosaic.client.private_worker import PrivateWorker
from mosaic.client.prototypes import require_prototypes
from mosaic.client.worker import Worker
from mosaic.data.module import FederatedDataModule
from mosaic.errors import MosaicError
from mosaic.executors.agreement import common_settings
from mosaic.executors.base import ClientExecutor
from mosaic.executors.processes.environment import check_launch, idle_gpus, launched_world
from mosaic.federation.private import check_private_models
from mosaic.federation.schedule import Schedule
from mosaic.messages import StateDict
from mosaic.model_pool import ClientModels, ModelPool
from mosaic.nets.blueprint import Blueprint
from mosaic.privacy.accounting import PrivacyBudget
from mosaic.privacy.settings import Privacy
from mosaic.server.state import ServerState
from mosaic.tasks.classification import OptimizerFactory
from mosaic.tasks.global_classifier import GlobalClassifier
from mosaic.training.phases import PhaseRunner

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What a federation works on.

    Attributes:
        algorithm: one round of it.
        executor: reaches the clients.
        data: the images and who holds them.
        pool: which client runs which model.
        optimizer: makes the optimiser of local training.
        phases: trains.
        seed: of everything but the partition.
        config: the parsed configuration as plain values, for the run directory.
        privacy: budget of every client, where there is one.
        ledgers: folder where the clients that work here keep what they have spent.
    """

    algorithm: Algorithm
    executor: ClientExecutor
    data: FederatedDataModule
    pool: ModelPool
    optimizer: OptimizerFactory
    phases: PhaseRunner
    seed: int
    config: Mapping[str, Any]
    privacy: Privacy | None = None
    ledgers: Path = Path("privacy")

    @property
    def blueprint(self) -> Blueprint:
        """Builds global classifiers."""
        return self.pool.blueprint

    @cached_property
    def budget(self) -> PrivacyBudget | None:
        """The privacy budget of every client over all rounds of the schedule, where there is one."""
        if self.privacy is None:
            return None
        schedule = Schedule(**self.config["federation"]["schedule"])
        steps = sum(schedule.plan(round, 1, seed=0).steps for round in range(1, schedule.rounds + 1))
        return PrivacyBudget.of(self.privacy, steps)

    @property
    def own_models(self) -> OwnModels:
        """The tensors of a model that stay on clients."""
        return OwnModels(self.pool, self.algorithm.program.personal, self.seed)

    def worker(self) -> Worker:
        """Return the worker that answers requests; only controls bring all images to one client."""
        if (budget := self.budget) is not None:
            check_private_models(budget.privacy, self.pool, self.phases)
            made = self.data, self.pool, self.optimizer, self.algorithm.program, self.phases, self.seed, budget
            if not self.phases.dry_run:
                keep = self.config["federation"]["snapshot_every"] + 1
                return PrivateWorker(*made, self.ledgers, common_settings(self.config), keep)
            folder = tempfile.mkdtemp(prefix="mosaic-dry-run-")
            worker = PrivateWorker(*made, Path(folder))
            weakref.finalize(worker, shutil.rmtree, folder, ignore_errors=True)
            return worker
        data = self.data.gathered() if self.algorithm.gathers_data else self.data
        program = self.algorithm.program
        if program.share_curves is None:
            program = replace(program, share_curves=not self.data.is_remote)
        return Worker(data, self.pool, self.optimizer, program, self.phases, self.seed)

    def check(self) -> None:
        """Refuse, before anything is trained, what cannot work.

        Raises:
            MosaicError: the algorithm cannot work with these models or images, the device does not exist, or several
                processes were launched in a way that does not fit.
        """
        phases, executor = self.phases, self.executor
        check_launch(phases.processes, phases.by_slurm, type(executor).__name__, executor.takes_part_in_launch)
        visible = torch.cuda.device_count() if phases.device.type == "cuda" and launched_world() is None else 0
        if advice := idle_gpus(max(executor.devices, phases.processes), visible):
            log.warning(advice)
        self.algorithm.check_pool(self.pool)
        self.algorithm.check_network(self.pool)
        if executor.is_remote and self.algorithm.gathers_data:
            raise MosaicError(
                f"algorithm: {type(self.algorithm).__name__} brings all images to one place, and these clients keep "
                "theirs: choose another algorithm"
            )
        if self.privacy is not None:
            check_private_models(self.privacy, self.pool, self.phases)
        elif self.algorithm.needs_prototypes(self.pool) and not executor.is_remote:
            require_prototypes(self.algorithm.program.prototypes, self.data.class_counts)

    @property
    def images(self) -> list[int]:
        """Images that each client trains on."""
        images: list[int] = self.data.class_counts.sum(1).tolist()
        return images

    def clients_models(self, state: ServerState) -> Iterator[tuple[int, StateDict]]:
        """Yield the own model of every client that keeps one and has trained it.

        Where there is no global model that is every client, else those with an architecture of their own, which go on
        with what the server has taught their model.

        Args:
            state: holds what is common to all models, and what was taught.
        """
        own = self.own_models
        for client in sorted(self.executor.states):
            if self.pool.keeps_own(client):
                taught = state.returned.get(str(client))
                yield client, taught or own.join(client, {}, self.executor.states[client])
            elif own.exist:
                yield client, own.join(client, state.model, self.executor.states[client])


def make_job(
    model: GlobalClassifier,
    data: FederatedDataModule,
    algorithm: Algorithm,
    executor: ClientExecutor,
    clients: ClientModels,
    config: Mapping[str, Any],
    trainer: Mapping[str, Any],
    privacy: Privacy | None,
    ledgers: Path,
) -> Job:
    """Load the data, deal out the models and make what trains.

    ``model`` holds network, optimiser and how they are computed, ``clients`` says how the clients' models differ,
    ``config`` holds the seed, ``trainer`` the settings of every phase's Trainer; the others are those of :class:`Job`.

    Raises:
        MosaicError: these do not fit together.
    """
    if executor.is_remote and not data.is_remote:
        raise MosaicError(
            f"executor: expected data.partition mosaic.data.Remote with {type(executor).__name__}, whose clients hold "
            f"their images themselves, got {type(data.partition).__name__}: set it, or simulate with "
            "mosaic.executors.SerialExecutor"
        )
    data.setup("fit")
    blueprint, seed = data.blueprint(model.factory), config["seed_everything"]
    return Job(
        algorithm=algorithm,
        executor=executor,
        data=data,
        pool=clients.pool(blueprint, data.num_clients, seed),
        optimizer=model.optimizer,
        phases=PhaseRunner(executor.trainer(trainer), model.channels_last, model.compiles, model.cuda_graphs),
        seed=seed,
        config=config,
        privacy=privacy,
        ledgers=ledgers,
    )
