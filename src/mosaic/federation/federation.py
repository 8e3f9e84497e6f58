"""Start or resume a run, and end it in order."""

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch.loggers import Logger

from mosaic.client_states import ClientStates
from mosaic.disk import naming_disk, write_whole
from mosaic.errors import MosaicError, require_count, require_kinds
from mosaic.executors.base import WorkerLostError
from mosaic.federation.evaluation import Evaluator
from mosaic.federation.job import Job
from mosaic.federation.measuring import Measurer
from mosaic.federation.nearness import nearness
from mosaic.federation.resumption import check_same, check_same_images
from mosaic.federation.rounds import Rounds
from mosaic.federation.schedule import Schedule
from mosaic.federation.trial_step import take_trial_step
from mosaic.privacy.ledger import require_ledgers
from mosaic.ranks import ending_after_rank_0, has_lost_a_rank, world_size
from mosaic.runs.append_only import check_sizes, copy_append_only, cut_back
from mosaic.runs.directory import DRY_RUN, RunDirectory
from mosaic.runs.facts import is_whole
from mosaic.runs.figures import partition_heat_map
from mosaic.runs.loggers import LoggerFactory, RunLoggers
from mosaic.runs.snapshots import Snapshot, drop_old, find_snapshot, list_snapshots
from mosaic.runs.tracking import SilentTracker, Tracker
from mosaic.server.faults import Faults
from mosaic.server.state import ServerState
from mosaic.training.phases import many_phases
from mosaic.training.signals import heeding_signals

log = logging.getLogger(__name__)


class Federation:
    """Runs an algorithm for a number of rounds.

    Args:
        run_dir: folder of the run; it must be new, unless ``--ckpt_path`` goes on with it.
        schedule: which round does what.
        snapshot_every: rounds between snapshots; the last round always gets one.
        keep_snapshots: how many are kept.
        validate_every: rounds between measurements of the global model and of the clients' own models, on the clients'
            validation images and on the test split; the last round always has one.
        faults: how long clients may take, and how many must answer; the round goes on without the others.
        loggers: Lightning's loggers, told the figures of every round beside TensorBoard's files.
        judging: whether clients judge models on their validation images; without it their counts of right answers per
            class stay with them, and every model is taken unseen, as it always is with a privacy budget.
    """

    def __init__(
        self,
        run_dir: str = "runs/mosaic",
        schedule: Schedule = Schedule(),
        snapshot_every: int = 1,
        keep_snapshots: int = 2,
        validate_every: int = 1,
        faults: Faults = Faults(),
        judging: bool = True,
        loggers: list[LoggerFactory | Logger] | None = None,
    ) -> None:
        require_count(
            "federation", snapshot_every=snapshot_every, keep_snapshots=keep_snapshots, validate_every=validate_every
        )
        kinds = {"schedule": (schedule, Schedule), "faults": (faults, Faults), "judging": (judging, bool)}
        require_kinds("federation", **kinds)
        if not isinstance(loggers, list | tuple | None):
            raise MosaicError(f"federation.loggers: expected a list, got {type(loggers).__name__}: write [it]")
        if not isinstance(run_dir, str | Path) or not str(run_dir).strip():
            got = "nothing" if isinstance(run_dir, str) else repr(run_dir)
            raise MosaicError(f"federation.run_dir: expected the name of a new folder, got {got}")
        self.run_dir, self.schedule, self.faults, self.judging = str(run_dir), schedule, faults, judging
        self.loggers = loggers or []
        self.snapshot_every, self.keep_snapshots, self.validate_every = snapshot_every, keep_snapshots, validate_every

    def run(self, job: Job, ckpt_path: str | None = None) -> Path:
        """Run all rounds that are left, or serve the process that does.

        Args:
            job: what to work on.
            ckpt_path: nothing, ``auto``, ``last``, or a path of a snapshot or a run.

        Returns:
            The run's folder; after a dry run it is gone.

        Raises:
            MosaicError: the request cannot be carried out; nothing was written.
            Preempted: a signal has asked this process to leave; the last finished round is in a snapshot.
        """
        ending = ending_after_rank_0(alike=MosaicError)
        with closing(job.executor), heeding_signals(), naming_disk(Path(self.run_dir)), ending:
            job.check()
            return Path(self.run_dir) if job.executor.serve(job.worker) else self._run(job, ckpt_path)

    def _run(self, job: Job, ckpt_path: str | None) -> Path:
        if job.algorithm.gathers_data:
            log.warning(
                "%s trains in one place on the images of all %d clients: a control, not federated learning",
                type(job.algorithm).__name__,
                job.data.num_clients,
            )
        RunDirectory(self.run_dir).check_name()
        if not job.phases.dry_run:
            with closing(RunDirectory(self.run_dir)) as directory:
                return self._fit(job, directory, self.schedule, ckpt_path)
        with tempfile.TemporaryDirectory(prefix=DRY_RUN) as folder:
            one_round = Schedule(collaborative_rounds=1, local_steps=1, fine_tune_rounds=0)
            with closing(RunDirectory(Path(folder) / "run")) as directory:
                path = self._fit(job, directory, one_round, None)
        log.info("dry run: one batch of every phase has run; nothing is kept, and the figures mean nothing")
        return path

    def _fit(self, job: Job, directory: RunDirectory, schedule: Schedule, ckpt_path: str | None) -> Path:
        writes = job.phases.rank == 0
        start, make_ready = self._start(job, directory, ckpt_path, writes)
        take_trial_step(  # which launches the other ranks
            job.phases,
            job.blueprint,
            job.optimizer,
            self.schedule.learning_rate,
            job.algorithm.trains_two,
            job.algorithm.program.objective,
            job.data.batch_size,
        )
        job.executor.note_run(start.run, start.round)
        if start.round < schedule.rounds or not job.executor.is_remote:  # or nobody is asked any more
            job.executor.start(job.worker())
        tracker: Tracker | SilentTracker = SilentTracker()
        if writes:
            loggers = RunLoggers([] if job.phases.dry_run else self.loggers, directory.loggers)
            make_ready()
            loggers.begin(job.config)
            nearest = None if job.data.is_remote else partial(nearness, job.data)
            tracker = Tracker(directory.tensorboard, start.round, loggers, job.data.images.class_names, nearest)
        limit, stamp = job.phases.dry_run.most_images, start.stamp() if job.phases.processes > 1 else ""
        evaluator = Evaluator(job.data.images.test, job.blueprint.num_classes, job.phases.device, limit)
        evaluator.stages.update(start.stages)
        measurer = Measurer(job, evaluator, self.validate_every, schedule.rounds)
        rounds = Rounds(
            job,
            schedule,
            start,
            measurer=measurer,
            directory=directory,
            tracker=tracker,
            snapshot_every=self.snapshot_every,
            keep_snapshots=self.keep_snapshots,
            faults=self.faults,
            judging=self.judging and job.privacy is None,
        )
        finished = False
        del start, make_ready  # or their models would stay as long as the run
        try:
            with many_phases(), _naming_lost_ranks():
                if job.phases.processes > 1:
                    _agree(stamp)
                rounds.complete()
            if writes and job.data.is_remote and job.data.class_counts.any(1).all():
                _write_partition(job, directory.path, anew=True)  # some may have come late
            finished = True
        finally:
            if isinstance(tracker, Tracker):
                tracker.close(finished)
        return directory.path

    def _start(
        self, job: Job, directory: RunDirectory, ckpt_path: str | None, writes: bool
    ) -> tuple[Snapshot, Callable[[], None]]:
        """Find or make the state to start from; return it, and a function that prepares the folder."""
        if writes and ckpt_path is not None and directory.config.is_file():
            directory.claim()
        found = find_snapshot(ckpt_path, directory.path)
        job.executor.states = ClientStates()  # an executor may have served another run before
        if found is None:
            start = Snapshot(0, ServerState(job.own_models.initial()))
            if writes and ckpt_path == "auto" and directory.config.is_file():
                _check_same(job, directory, start)
                return start, partial(self._go_on, job, directory, start.round, {})
            if writes:
                directory.require_free()
            return start, partial(directory.create, job.config, partial(_write_partition, job))
        start, source = Snapshot.read(found), found.parent.parent
        job.executor.states, start = start.clients, replace(start, clients=ClientStates())
        if not writes:
            return start, lambda: None
        _check_same(job, RunDirectory(source), start)
        check_sizes(source, start.sizes, found)
        log.info("going on after round %d of %s", start.round, source)
        bound = job.privacy is not None or job.executor.is_remote
        if source.resolve() != directory.path.resolve():
            if bound:
                elsewhere = "clients on hosts of their own remember one run by its name"
                why = f"clients' ledgers are in {source}" if job.privacy is not None else elsewhere
                raise MosaicError(
                    f"--ckpt_path {ckpt_path}: expected a run in {directory.path} itself, since {why}: go on in "
                    f"{source}, or start a new run without --ckpt_path"
                )
            directory.require_free()
            return start, partial(_branch, job, directory, source, start)
        if found.resolve() != list_snapshots(directory.rounds)[-1].resolve():
            other = "" if bound else "choose a new name with --federation.run_dir, or "
            raise MosaicError(
                f"--ckpt_path {ckpt_path}: {directory.path} has gone on to later rounds, which are never overwritten: "
                f"{other}go on from the last one with --ckpt_path last"
            )
        require_ledgers(job.ledgers, start.booked)
        return start, partial(self._go_on, job, directory, start.round, start.sizes)

    def _go_on(self, job: Job, directory: RunDirectory, round: int, sizes: Mapping[str, int]) -> None:
        """Restore a run's folder to its state at a snapshot of a round; with more to come it has not finished."""
        directory.complete(partial(_write_partition, job))
        if round < self.schedule.rounds:
            directory.remove_results()
        directory.write_config(job.config)
        cut_back(directory.path, sizes)
        drop_old(directory.rounds, self.keep_snapshots)


def _check_same(job: Job, directory: RunDirectory, start: Snapshot) -> None:
    """Refuse to go on with another configuration or other images than those with which a run was started."""
    check_same(directory, job.config, start, job.data.num_clients, job.algorithm.resume_sensitive_to)
    if not job.executor.is_remote:  # hosts of their own answer for their images
        check_same_images(directory, job.data)


def _branch(job: Job, directory: RunDirectory, source: Path, start: Snapshot) -> None:
    """Make a new folder for a run that starts from another run's snapshot, which it keeps as its own first one."""

    def fill(folder: Path) -> None:
        _write_partition(job, folder)
        copy_append_only(source, folder, start.sizes)
        cut_back(folder, start.sizes)
        replace(start, clients=job.executor.states).write(RunDirectory(folder).rounds, keep=1)

    directory.create(job.config, fill)


def _write_partition(job: Job, folder: Path, anew: bool = False) -> None:
    """Write the partition as a table and a picture, if they are not there yet, or damaged, or asked for anew."""
    if not job.data.class_counts.any():  # a run that has finished asks no client elsewhere
        return
    table, picture = RunDirectory(folder).partition, folder / "partition.png"
    if anew or not is_whole(table):
        job.data.write_partition(table)
    if anew or not picture.is_file():
        write_whole(picture, partition_heat_map(job.data.class_counts.numpy(), job.data.images.class_names).png())


@contextmanager
def _naming_lost_ranks() -> Iterator[None]:
    """Turn the traceback of a rank whose partner has ended into one line; the partner's own says why."""
    try:
        yield
    except Exception as error:
        if not has_lost_a_rank(error):
            raise
        raise WorkerLostError(
            f"another of the {world_size()} processes that train together has ended: its own message, if it left one, "
            "says why; --ckpt_path auto goes on from the last snapshot, or starts anew where there is none"
        ) from error


def _agree(stamp: str) -> None:
    """Refuse to train if ranks, which the trial step has started, begin at different snapshots: each reads its own.

    Raises:
        MosaicError: they do.
    """
    stamps = [stamp] * world_size()
    torch.distributed.all_gather_object(stamps, stamp)
    for rank, found in enumerate(stamps):
        if found != stamps[0]:
            raise MosaicError(
                f"--ckpt_path: expected all ranks to begin at {stamps[0]}, as rank 0 does, got {found} at rank "
                f"{rank}: let all of them see the same --federation.run_dir, on a file system that they share"
            )
