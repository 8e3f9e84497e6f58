"""The only loop: rounds, and what happens around each of them."""

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from torch import Tensor

from mosaic.algorithms.base import Algorithm
from mosaic.client.own_models import OwnModels
from mosaic.client.worker import Worker
from mosaic.data.module import FederatedDataModule
from mosaic.errors import MosaicError, require_positive
from mosaic.federation.checkpoint import save_checkpoint
from mosaic.federation.evaluation import Evaluator, Measurement
from mosaic.federation.executors.base import ClientExecutor
from mosaic.federation.ledger import AccountedExecutor
from mosaic.federation.progress import rounds_bar
from mosaic.federation.run_directory import RunDirectory, append_only_sizes, copy_append_only, cut_back
from mosaic.federation.schedule import Schedule, gathered
from mosaic.federation.snapshots import Snapshot, find_snapshot, list_snapshots
from mosaic.federation.tracking import SilentTracker, Tracker, peak_memory_bytes
from mosaic.figures import confusion_matrix, partition_heat_map
from mosaic.messages import GeneratorReply, Reply, StateDict, TrainReply
from mosaic.model_pool import ModelPool
from mosaic.nets.blueprint import Blueprint
from mosaic.phases import PhaseRunner, prompt_release
from mosaic.preemption import heeding_signals, leave_if_asked
from mosaic.server.cohort import Cohort
from mosaic.server.context import RoundContext, RoundPlan
from mosaic.server.state import ServerState
from mosaic.tasks.classification import OptimizerFactory

log = logging.getLogger(__name__)

SMALLEST_JUDGED_CLIENT = 20
"""Validation images below which a client's accuracy is too coarse to be called the worst."""


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
    """

    algorithm: Algorithm
    executor: ClientExecutor
    data: FederatedDataModule
    pool: ModelPool
    optimizer: OptimizerFactory
    phases: PhaseRunner
    seed: int
    config: Mapping[str, Any]

    @property
    def blueprint(self) -> Blueprint:
        """Builds global classifiers."""
        return self.pool.blueprint

    @property
    def own_models(self) -> OwnModels:
        """What of a model stays on clients."""
        return OwnModels(self.pool, self.algorithm.program.personal, self.seed)

    def worker(self) -> Worker:
        """Make what answers requests in this or another process; only controls bring all images to one client."""
        data = self.data.gathered() if self.algorithm.gathers_data else self.data
        return Worker(data, self.pool, self.optimizer, self.algorithm.program, self.phases, self.seed)


class Federation:
    """Runs an algorithm for a number of rounds.

    Args:
        run_dir: folder of the run; it must be new, unless ``--ckpt_path`` goes on with it.
        schedule: which round does what.
        snapshot_every: rounds between snapshots; the last round always gets one.
        keep_snapshots: how many are kept.
        validate_every: rounds between judgements of the global model by the clients' validation images, or, where there
            is none, of the clients' own models by these and by the test split.
    """

    def __init__(
        self,
        run_dir: str = "runs/mosaic",
        schedule: Schedule = Schedule(),
        snapshot_every: int = 1,
        keep_snapshots: int = 2,
        validate_every: int = 1,
    ) -> None:
        require_positive(
            "federation", snapshot_every=snapshot_every, keep_snapshots=keep_snapshots, validate_every=validate_every
        )
        self.run_dir, self.schedule = run_dir, schedule
        self.snapshot_every, self.keep_snapshots, self.validate_every = snapshot_every, keep_snapshots, validate_every

    def fit(self, job: Job, ckpt_path: str | None = None) -> Path:
        """Run all rounds that are left, or help the process that does.

        Args:
            job: what to work on.
            ckpt_path: nothing, ``auto``, ``last``, or a path of a snapshot or a run.

        Returns:
            The run's folder; after a dry run it is gone.

        Raises:
            MosaicError: the request cannot be carried out; nothing was written.
            Preempted: a signal has asked this process to leave; the last finished round is in a snapshot.
        """
        job.algorithm.check_pool(job.pool.kind)
        log.debug("phases run on %s", job.phases.device)  # a device that does not exist is refused here
        with closing(job.executor), heeding_signals():
            return Path(self.run_dir) if job.executor.serve(job.worker) else self._run(job, ckpt_path)

    def _run(self, job: Job, ckpt_path: str | None) -> Path:
        if job.algorithm.gathers_data:
            log.warning(
                "%s trains in one place on the images of all %d clients: a control, not federated learning",
                type(job.algorithm).__name__,
                job.data.num_clients,
            )
        if not job.phases.dry_run:
            return self._fit(job, RunDirectory(self.run_dir), self.schedule, ckpt_path)
        with tempfile.TemporaryDirectory(prefix="mosaic-dry-run-") as folder:
            one_round = Schedule(collaborative_rounds=1, local_steps=1, fine_tune_rounds=0)
            path = self._fit(job, RunDirectory(Path(folder) / "run"), one_round, None)
        log.info("dry run: one batch of every phase has run; nothing is kept, and the figures mean nothing")
        return path

    def _fit(self, job: Job, directory: RunDirectory, schedule: Schedule, ckpt_path: str | None) -> Path:
        writes = job.phases.rank == 0
        fresh = writes and not directory.path.exists()
        start = self._start(job, directory, ckpt_path, writes)
        try:
            job.executor.start(job.worker())
        except BaseException:
            if fresh:
                shutil.rmtree(directory.path)
            raise
        tracker: Tracker | SilentTracker = SilentTracker()
        if writes:
            tracker = Tracker(directory.metrics, directory.tensorboard, start.round)
        limit = 8 if job.phases.dry_run else None
        evaluator = Evaluator(job.data.images.test, job.blueprint.num_classes, job.phases.device, limit)
        evaluator.stages.update(start.stages)
        run = Run(job, schedule, start, tracker, evaluator, directory, self)
        try:
            with prompt_release():
                run.finish(run.rounds(start.round + 1))
        finally:
            if isinstance(tracker, Tracker):
                tracker.close()
        return directory.path

    def _start(self, job: Job, directory: RunDirectory, ckpt_path: str | None, writes: bool) -> Snapshot:
        """Find or make the state to start from; only the first rank touches the disk."""
        found = find_snapshot(ckpt_path, directory.path)
        if found is None:
            initial = job.own_models.initial()
            if writes and ckpt_path == "auto" and directory.config.is_file():
                directory.check_same(job.config, Snapshot(0, ServerState(initial)), job.data.num_clients)
                cut_back(directory.path, {})
            elif writes:
                directory.create(job.config)
                self._write_partition(job, directory)
            return Snapshot(0, ServerState(initial))
        snapshot, source = Snapshot.read(found), found.parent.parent
        job.executor.states.update(snapshot.clients)
        if not writes:
            return snapshot
        RunDirectory(source).check_same(job.config, snapshot, job.data.num_clients)
        if source.resolve() != directory.path.resolve():
            directory.create(job.config)
            copy_append_only(source, directory.path, snapshot.sizes)
            self._write_partition(job, directory)
        elif found.resolve() != list_snapshots(directory.rounds)[-1].resolve():
            raise MosaicError(
                f"--ckpt_path {ckpt_path}: {directory.path} has gone on to later rounds, which are never overwritten: "
                "choose a new name with --federation.run_dir, or go on from the last one with --ckpt_path last"
            )
        else:
            directory.write_config(job.config)
        cut_back(directory.path, snapshot.sizes)
        log.info("going on after round %d of %s", snapshot.round, source)
        return snapshot

    def _write_partition(self, job: Job, directory: RunDirectory) -> None:
        job.data.write_partition(directory.path / "partition.json")
        counts = job.data.class_counts.numpy()
        partition_heat_map(counts, job.data.images.class_names).savefig(directory.path / "partition.png")


class Run:
    """The rounds of one run in one process.

    Args:
        job: what to work on.
        schedule: which round does what.
        start: the state to go on from.
        tracker: where traces go.
        evaluator: measures the test split.
        directory: the run's folder.
        settings: how often to snapshot and to validate.
    """

    def __init__(
        self,
        job: Job,
        schedule: Schedule,
        start: Snapshot,
        tracker: Tracker | SilentTracker,
        evaluator: Evaluator,
        directory: RunDirectory,
        settings: Federation,
    ) -> None:
        self._job, self._schedule, self._tracker = job, schedule, tracker
        self._evaluator, self._directory, self._settings = evaluator, directory, settings
        self._ledger = start.ledger
        self._state = start.server
        self._losses: list[float] = []
        self._unwritten: Snapshot | None = None
        self._own = job.own_models
        self._executor = AccountedExecutor(job.executor, self._ledger, self._note, self._tell)
        self._round_number = start.round

    def rounds(self, first: int) -> Measurement:
        """Run the rounds from ``first`` on; return the last measurement of the models."""
        if isinstance(self._tracker, Tracker):
            names = self._job.data.images.class_names
            self._tracker.figure("data/partition", partition_heat_map(self._job.data.class_counts.numpy(), names))
        with rounds_bar(first, self._schedule.rounds) as bar:
            for round in bar:
                with self._rescued(round):
                    leave_if_asked()
                    measurement = self._round(round)
                self._snapshot(round)
        if first > self._schedule.rounds:
            log.info("all %d rounds are done already", self._schedule.rounds)
            measurement = self._measure()
        return measurement

    def finish(self, measurement: Measurement) -> None:
        """Write the final models and figures."""
        if not isinstance(self._tracker, Tracker):
            return
        names = self._job.data.images.class_names
        summary = {
            "algorithm": type(self._job.algorithm).__name__,
            "seed": self._job.seed,
            "partition_seed": self._job.data.seed,
            "rounds": self._schedule.rounds,
            "distilled": self._state.distilled,
            "test_accuracy": measurement.accuracy,
            "test_loss": measurement.loss,
            "own_test_accuracy": measurement.own_accuracy,
            "stages": self._evaluator.stages,
            "generators": [generator_facts(upload) for upload in self._state.generators],
            **self._ledger.totals(),
            "peak_memory_bytes": peak_memory_bytes(),
        }
        if measurement.confusion is not None:
            self._tracker.figure("server/confusion", confusion_matrix(measurement.confusion.numpy(), names))
        final = {
            "final/test_accuracy": measurement.accuracy,
            "final/test_loss": measurement.loss,
            "final/own_test_accuracy": measurement.own_accuracy,
        }
        self._tracker.hyper_parameters(
            {"algorithm": summary["algorithm"], "seed": self._job.seed, "clients": self._job.data.num_clients},
            {name: value for name, value in final.items() if value is not None},
        )
        self._save_models()
        self._directory.summary.write_text(json.dumps(summary, indent=2) + "\n")

    def _save_models(self) -> None:
        """Write the global model, or where there is none, the clients' own."""
        facts = {
            "rounds": self._schedule.rounds,
            "image_shape": list(self._job.blueprint.image_shape),
            "class_names": list(self._job.data.images.class_names),
        }
        if not self._own.exist:
            save_checkpoint(self._directory.checkpoint, self._state.model, facts)
        for client, model in self._own_models():
            save_checkpoint(self._directory.client_checkpoint(client), model, {**facts, "client": client})

    def _round(self, round: int) -> Measurement:
        started = perf_counter()
        before = self._ledger.totals()
        plan = self._plan(round)
        self._tracker.round = self._round_number = round
        self._losses.clear()
        context = RoundContext(
            plan,
            self._job.seed,
            self._job.pool,
            self._job.phases,
            self._evaluator.observe,
            self._tracker,
            self._phase,
            self._ledger.book_updates,
        )
        cohort = Cohort(self._executor, plan, self._job.pool)
        self._state = self._job.algorithm.round(self._state, cohort, context)
        evaluated = perf_counter()
        measurement = self._measure() if self._due(round) or not self._own.exist else Measurement()
        self._ledger.book_seconds("evaluation", perf_counter() - evaluated)
        validation = self._validate(cohort, plan)
        self._write_row(plan, measurement, validation, before, perf_counter() - started)
        return measurement

    def _plan(self, round: int) -> RoundPlan:
        plan = self._schedule.plan(round, self._job.data.num_clients, self._job.seed, self._state.distilled)
        plan = replace(plan, clients=plan.clients[:2]) if self._job.phases.dry_run else plan
        if self._job.algorithm.gathers_data:
            return gathered(plan, self._images, self._job.data.batch_size)
        return plan

    @property
    def _images(self) -> list[int]:
        """Images that each client trains on."""
        images: list[int] = self._job.data.class_counts.sum(1).tolist()
        return images

    def _due(self, round: int) -> bool:
        """Whether clients are asked about models in this round, and their own models are measured."""
        return round % self._settings.validate_every == 0 or round == self._schedule.rounds

    def _own_models(self) -> Iterator[tuple[int, StateDict]]:
        """Yield the own model of every client that has trained one."""
        for client, state in sorted(self._job.executor.states.items()):
            if self._own.exist:
                yield client, self._own.join(client, self._state.model, state)

    def _measure(self) -> Measurement:
        if not self._own.exist:
            return self._evaluator.measure(self._job.blueprint.build(self._state.model))
        images, pool = self._images, self._job.pool
        return self._evaluator.measure_own(
            (pool.of(client).build(model), images[client]) for client, model in self._own_models()
        )

    def _validate(self, cohort: Cohort, plan: RoundPlan) -> tuple[float, float]:
        """Return accuracy over all validation images and that of the worst of several clients; nan where none is."""
        if not self._due(plan.round):
            return float("nan"), float("nan")
        judgement = cohort.evaluate(self._state.model)
        correct, total = judgement.correct.sum(1), judgement.total.sum(1)
        judged = total >= SMALLEST_JUDGED_CLIENT
        several = len(total) > 1
        worst = float((correct[judged] / total[judged]).min()) if several and judged.any() else float("nan")
        return share(correct.sum(), total.sum()), worst

    def _write_row(
        self,
        plan: RoundPlan,
        measurement: Measurement,
        validation: tuple[float, float],
        before: Mapping[str, Mapping[str, float]],
        seconds: float,
    ) -> None:
        after = self._ledger.totals()
        bytes_down, bytes_up = (
            sum(after[way].values()) - sum(before[way].values()) for way in ("bytes_down", "bytes_up")
        )
        loss = sum(self._losses) / len(self._losses) if self._losses else float("nan")
        log.info(
            "round %d/%d  done in %7.1f s  local loss %.3f  %s  validation %.2f %%",
            plan.round,
            self._schedule.rounds,
            seconds,
            loss,
            measurement,
            100 * validation[0],
        )
        row = {
            "server/test_accuracy": measurement.accuracy,
            "server/test_loss": measurement.loss,
            "clients/own_test_accuracy": measurement.own_accuracy,
            "clients/validation_accuracy": validation[0],
            "clients/worst_validation_accuracy": validation[1],
            "clients/train_loss": loss,
            "comm/bytes_down": bytes_down,
            "comm/bytes_up": bytes_up,
            "time/round_seconds": seconds,
        }
        if isinstance(self._tracker, Tracker):
            for name, value in row.items():
                if value is not None and value == value:  # not nan
                    self._tracker.scalar(name, value)
            for phase, value in after["seconds"].items():
                self._tracker.scalar(f"time/{phase}", value - before["seconds"].get(phase, 0.0))
            columns = {name.split("/")[1]: value for name, value in row.items()}
            self._tracker.row({"round": plan.round, "clients": len(plan.clients), "distils": plan.distils, **columns})

    def _snapshot(self, round: int) -> None:
        """Write a snapshot where one is due, else keep what it would hold, for the case that a signal comes."""
        if not isinstance(self._tracker, Tracker):
            return
        self._tracker.flush()
        sizes = append_only_sizes(self._directory.path)
        states, stages = dict(self._job.executor.states), dict(self._evaluator.stages)
        snapshot = Snapshot(round, self._state, states, deepcopy(self._ledger), stages, sizes)
        if round % self._settings.snapshot_every == 0 or round == self._schedule.rounds:
            snapshot.write(self._directory.rounds, self._settings.keep_snapshots)
            self._unwritten = None
        else:
            self._unwritten = snapshot

    @contextmanager
    def _rescued(self, round: int) -> Iterator[None]:
        """Keep the round before this one if a signal comes."""
        try:
            yield
        except SystemExit:
            if self._unwritten is not None:
                self._unwritten.write(self._directory.rounds, self._settings.keep_snapshots)
            log.warning("asked to leave in round %d, whose work is lost: --ckpt_path auto goes on with it", round)
            raise

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        """Book and tell the time of a server phase."""
        start = perf_counter()
        yield
        seconds = perf_counter() - start
        self._ledger.book_seconds(name, seconds)
        self._tell(name, seconds)

    def _tell(self, phase: str, seconds: float) -> None:
        log.info("round %d/%d  %-15s %6.1f s", self._round_number, self._schedule.rounds, phase, seconds)

    def _note(self, reply: Reply) -> None:
        if isinstance(reply, TrainReply):
            self._losses.append(reply.metrics["loss"])


def generator_facts(upload: GeneratorReply) -> dict[str, Any]:
    """Return what the summary tells of a client's generator."""
    counts = upload.class_counts
    told = ("coverage", "nearest_neighbour_ratio", "attempts")
    metrics = {name: upload.metrics[name] for name in told if name in upload.metrics}
    return {"client": upload.client, "images": int(counts.sum()), "classes": int((counts > 0).sum()), **metrics}


def share(part: Tensor, whole: Tensor) -> float:
    """Return ``part / whole``, nan where the whole is zero."""
    return float(part / whole) if whole > 0 else float("nan")
