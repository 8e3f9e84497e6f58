"""The loop over rounds: each one is run, measured, written down and kept in a snapshot."""

import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from time import perf_counter

from torch import nn

from mosaic.federation.evaluation import Measurement
from mosaic.federation.job import Job
from mosaic.federation.measuring import Measurer, Validation
from mosaic.federation.progress import rounds_bar, time_left
from mosaic.federation.results_writer import ResultsWriter, mean
from mosaic.federation.schedule import Schedule, centralised_plan
from mosaic.messages import Reply, Request, TrainReply
from mosaic.privacy.ledger import count_bookings
from mosaic.runs.append_only import append_only_sizes, sync_append_only
from mosaic.runs.books import AccountedExecutor
from mosaic.runs.directory import RunDirectory
from mosaic.runs.snapshots import Snapshot
from mosaic.runs.tracking import SilentTracker, Tracker
from mosaic.server.asking import QuorumError
from mosaic.server.cohort import Cohort
from mosaic.server.context import RoundContext, RoundPlan
from mosaic.server.faults import PHASES, Faults, Phase
from mosaic.server.state import checked_state
from mosaic.training.signals import leave_if_asked, leave_if_asked_unless_distributed, preempted, wait_for_rank_0

log = logging.getLogger(__name__)
_WAY_ON = "--ckpt_path auto goes on with it"


class Rounds:
    """The rounds of one run in one process.

    Args:
        job: what to work on.
        schedule: which round does what.
        start: the state to go on from.
        measurer: measures the models.
        directory: the run's folder.
        tracker: where traces go; a silent one in every process but the first, which then writes nothing at all.
        snapshot_every: rounds between snapshots; the last round always gets one.
        keep_snapshots: how many are kept.
        faults: how long clients may take, and how many must answer.
        judging: whether clients judge models.
    """

    def __init__(
        self,
        job: Job,
        schedule: Schedule,
        start: Snapshot,
        measurer: Measurer,
        directory: RunDirectory,
        tracker: Tracker | SilentTracker,
        snapshot_every: int,
        keep_snapshots: int,
        faults: Faults,
        judging: bool,
    ) -> None:
        self._job, self._schedule, self._measurer = job, schedule, measurer
        self._directory, self._tracker = directory, tracker
        self._snapshot_every, self._keep_snapshots = snapshot_every, keep_snapshots
        self._faults, self._judging = faults, judging
        self._writer = ResultsWriter(job, directory, tracker) if isinstance(tracker, Tracker) else None
        self._books, self._state, self._name = start.books, start.server, start.run
        self._losses: list[float] = []
        self._missing: Counter[Phase] = Counter()
        self._unwritten: Snapshot | None = None
        self._executor = AccountedExecutor(job.executor, self._books, self._log_phase)
        self._round_number = start.round
        self._first, self._started = start.round + 1, perf_counter()

    def complete(self) -> None:
        """Run all rounds that are left, and write the results.

        Raises:
            QuorumError: some must answer, and no client has trained in any round: the model is what it was at first.
        """
        if self._writer is not None and self._job.data.class_counts.any():
            self._writer.write_partition()
        measurement = self._rounds()
        if (why := self._books.untrained()) and self._faults.quorum_of("train"):
            raise QuorumError(
                f"expected a client that trains, got none in {self._schedule.rounds} rounds; the first of them said: "
                f"{why}: fix them, and start a new run with --federation.run_dir"
            )
        if self._writer is not None:
            self._writer.finish(self._schedule.rounds, self._state, measurement, self._measurer.evaluator, self._books)

    def _rounds(self) -> Measurement:
        """Run all rounds that are left; return the last measurement of the models."""
        with rounds_bar(self._first, self._schedule.rounds) as bar:
            for round in bar:
                with self._saving_on_failure(round):
                    leave_if_asked()
                    measurement = self._round(round)
                self._snapshot(round)
        if self._first > self._schedule.rounds:
            log.info("all %d rounds are done already", self._schedule.rounds)
            measurement = self._measurer.measure(self._state)
        return measurement

    def _round(self, round: int) -> Measurement:
        started, before = perf_counter(), self._books.totals()
        plan = self._plan(round)
        self._tracker.round = self._round_number = round
        self._losses.clear()
        self._missing.clear()
        context = RoundContext(
            plan,
            seed=self._job.seed,
            pool=self._job.pool,
            phases=self._job.phases,
            observe=self._observe,
            recorder=self._tracker,
            timed=self._phase,
            count_updates=self._books.book_updates,
            budget=self._job.budget,
        )
        judge_received = round > 1 and self._measurer.due(round - 1)
        images, most_validation = self._known_image_counts()
        cohort = Cohort(
            self._executor,
            plan,
            self._job.pool,
            images=images,
            judge_received=judge_received,
            faults=self._faults,
            on_reply=self._book_reply,
            on_missing=self._book_missing,
            judging=self._judging,
            validation=most_validation,
            prototypes=self._job.algorithm.program.prototypes.within(self._job.phases.dry_run),
        )
        algorithm, whole = self._job.algorithm, self._job.algorithm.program.personal == "nothing"
        self._state = checked_state(
            algorithm.round(self._state, cohort, context), type(algorithm).__name__, self._job.blueprint, whole
        )
        evaluated = perf_counter()
        measurement = self._measurer.measure(self._state) if self._measurer.due(round) else Measurement()
        self._books.book_seconds("evaluation", perf_counter() - evaluated)
        if self._books.untrained(before):
            log.warning("round %d: no client has trained, so nothing has been learnt of their images", round)
        validation = self._measurer.validate(round, self._state.model, cohort)
        seconds = perf_counter() - started
        self._log_round(plan, measurement, validation, seconds)
        for phase, clients in self._missing.items():
            self._tracker.scalar(f"clients/missing_{phase}", clients)
        if self._writer is not None:
            after = self._books.totals()
            self._writer.write_round(plan, measurement, self._losses, before, after, seconds)
            self._writer.write_validation(validation)
        return measurement

    def _plan(self, round: int) -> RoundPlan:
        plan = self._schedule.plan(round, self._job.data.num_clients, self._job.seed, self._job.executor.present())
        plan = replace(plan, clients=self._job.phases.dry_run.clients(plan.clients))
        if self._job.algorithm.gathers_data:
            return centralised_plan(plan, self._job.images, self._job.data.batch_size)
        return plan

    def _known_image_counts(self) -> tuple[dict[int, int], dict[int, int]]:
        """Return how many images each client trains on, if any, and the most that it validates on, as far as is known.

        Controls have one client with all of them. With a privacy budget nobody knows, and all clients weigh alike: they
        announce an image of each class.
        """
        if self._job.privacy is not None:
            return dict.fromkeys(range(self._job.data.num_clients), self._job.pool.blueprint.num_classes), {}
        images, validation = self._job.images, self._job.data.most_validation()
        if self._job.algorithm.gathers_data:
            return {0: sum(images)}, {0: sum(validation.values())}
        return {client: count for client, count in enumerate(images) if count}, validation

    def _log_round(
        self, plan: RoundPlan, measurement: Measurement, validations: Mapping[int, Validation], seconds: float
    ) -> None:
        done, rounds = plan.round - self._first + 1, self._schedule.rounds
        left = time_left(perf_counter() - self._started, done, rounds - plan.round)
        log.info(
            "round %d/%d  done in %7.1f s  %s%s%s%s",
            plan.round,
            rounds,
            seconds,
            f"local loss {mean(self._losses):.3f}  " if self._losses else "",
            measurement,
            "".join(
                f"  validation of round {round} {100 * each.accuracy:.2f} %"
                for round, each in validations.items()
                if not math.isnan(each.accuracy)
            ),
            f"  {left}" if left else "",
        )

    def _snapshot(self, round: int) -> None:
        """Write a snapshot if one is due; otherwise keep it in memory, in case the run is interrupted."""
        if self._writer is None:
            return
        self._tracker.flush()
        sizes = append_only_sizes(self._directory.path)
        states, stages = self._job.executor.states.copy(), dict(self._measurer.evaluator.stages)
        self._unwritten = Snapshot(round, self._state, states, deepcopy(self._books), stages, sizes, self._name)
        if round % self._snapshot_every == 0 or round == self._schedule.rounds:
            self._write_snapshot()

    def _write_snapshot(self) -> None:
        if self._unwritten is not None:
            sync_append_only(self._directory.path)
            booked = {} if self._job.privacy is None else count_bookings(self._job.ledgers)
            replace(self._unwritten, booked=booked).write(self._directory.rounds, self._keep_snapshots)
            self._unwritten = None

    @contextmanager
    def _saving_on_failure(self, round: int) -> Iterator[None]:
        """Write the last snapshot if a signal comes or the round fails."""
        keeps = not self._job.phases.dry_run
        try:
            yield
        except BaseException as error:
            self._write_snapshot()
            wait_for_rank_0(error)
            if (leaving := preempted(error)) is None:
                if keeps:
                    log.warning("stopped in round %d, whose work is lost: once the cause is fixed, %s", round, _WAY_ON)
                raise
            leaving.when = f"in round {round}, whose work is lost" + (f": {_WAY_ON}" if keeps else "")
            raise leaving from None

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        """Record and log the time of a server phase."""
        leave_if_asked_unless_distributed()
        start = perf_counter()
        yield
        seconds = perf_counter() - start
        self._books.book_seconds(name, seconds)
        self._log_phase(name, seconds)

    def _observe(self, module: nn.Module, *stages: str) -> None:
        """Measure models within a round, unless a signal has come: many experts take long."""
        leave_if_asked_unless_distributed()
        self._measurer.evaluator.observe(module, *stages)

    def _log_phase(self, phase: str, seconds: float) -> None:
        log.info("round %d/%d  %-15s %6.1f s", self._round_number, self._schedule.rounds, phase, seconds)

    def _book_missing(self, request: Request, reason: str) -> None:
        self._missing[PHASES[type(request)]] += 1
        self._books.book_failure(request, reason)

    def _book_reply(self, reply: Reply) -> None:
        self._books.book_work(reply)
        if isinstance(reply, TrainReply) and self._job.privacy is None:
            self._losses.append(reply.metrics["loss"])
