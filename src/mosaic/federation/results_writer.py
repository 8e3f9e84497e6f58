"""Write a run's results: rows, curves, figures, models and the summary."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from mosaic.disk import write_whole
from mosaic.federation.evaluation import Evaluator, Measurement
from mosaic.federation.job import Job
from mosaic.federation.measuring import Validation
from mosaic.federation.private import privacy_facts
from mosaic.messages import GeneratorReply
from mosaic.runs.books import Books
from mosaic.runs.checkpoint import save_checkpoint
from mosaic.runs.directory import RunDirectory
from mosaic.runs.figures import confusion_matrix, partition_heat_map
from mosaic.runs.tracking import Tracker, peak_memory_bytes
from mosaic.server.context import RoundPlan
from mosaic.server.state import ServerState

Totals = Mapping[str, Mapping[str, float]]


class ResultsWriter:
    """Writes a run's results; only the first of several processes has one.

    Args:
        job: what the run works on.
        directory: the run's folder.
        tracker: writes curves and rows.
    """

    def __init__(self, job: Job, directory: RunDirectory, tracker: Tracker) -> None:
        self._job, self._directory, self._tracker = job, directory, tracker

    def write_partition(self) -> None:
        """Show the partition."""
        names = self._job.data.images.class_names
        self._tracker.figure("data/partition", partition_heat_map(self._job.data.class_counts.numpy(), names))

    def write_round(
        self,
        plan: RoundPlan,
        measurement: Measurement,
        losses: Sequence[float],
        before: Totals,
        after: Totals,
        seconds: float,
    ) -> None:
        """Write a row of the table and the round's curves; ``before`` and ``after`` are totals of the books."""
        bytes_down, bytes_up = (
            sum(after[way].values()) - sum(before[way].values()) for way in ("bytes_down", "bytes_up")
        )
        row = {
            "server/test_accuracy": measurement.accuracy,
            "server/test_loss": measurement.loss,
            "clients/own_test_accuracy": measurement.own_accuracy,
            "clients/train_loss": mean(losses),
            "comm/bytes_down": bytes_down,
            "comm/bytes_up": bytes_up,
            "time/round_seconds": seconds,
        }
        for name, value in row.items():
            if value is not None and value == value:  # not nan
                self._tracker.scalar(name, value)
        for phase, value in after["seconds"].items():
            self._tracker.scalar(f"time/{phase}", value - before["seconds"].get(phase, 0.0))
        columns = {name.split("/")[1]: value for name, value in row.items()}
        columns["student_accepted"] = self._tracker.written("server/student_accepted")
        self._tracker.row(
            self._directory.metrics,
            {"round": plan.round, "clients": len(plan.clients), "distils": plan.distils, **columns},
        )

    def write_validation(self, said: Mapping[int, Validation]) -> None:
        """Write the clients' validation of models, by the round that made them."""
        for round, validation in said.items():
            if round in self._validated:  # the last round of an earlier start was judged at its end
                continue
            figures = {"validation_accuracy": validation.accuracy, "worst_validation_accuracy": validation.worst}
            for name, value in figures.items():
                if value == value:  # not nan
                    self._tracker.scalar(f"clients/{name}", value, round)
            self._tracker.row(self._directory.validation, {"round": round, **figures})

    @cached_property
    def _validated(self) -> frozenset[int]:
        """Rounds that have a row of validation from an earlier start."""
        if not self._directory.validation.is_file():
            return frozenset()
        with self._directory.validation.open(newline="") as table:
            return frozenset(int(row["round"]) for row in csv.DictReader(table))

    def finish(
        self, rounds: int, state: ServerState, measurement: Measurement, evaluator: Evaluator, books: Books
    ) -> None:
        """Write the final models, their figures and the summary."""
        summary = {
            "algorithm": type(self._job.algorithm).__name__,
            "seed": self._job.seed,
            "partition_seed": self._job.data.seed,
            "rounds": rounds,
            "distilled": state.distilled,
            "test_accuracy": measurement.accuracy,
            "test_loss": measurement.loss,
            "own_test_accuracy": measurement.own_accuracy,
            "stages": evaluator.stages,
            "generators": [generator_facts(upload) for upload in state.generators],
            **books.totals(),
            "peak_memory_bytes": peak_memory_bytes(),
        }
        if (budget := self._job.budget) is not None:
            summary["privacy"] = privacy_facts(budget, self._job.ledgers)
        self._write_confusion(measurement)
        self._write_final_figures(measurement)
        self._save_models(rounds, state)
        write_whole(self._directory.summary, f"{json.dumps(summary, indent=2)}\n".encode())

    def _write_confusion(self, measurement: Measurement) -> None:
        """Write the confusion matrix, if one was measured, as a picture and as a table of counts."""
        if measurement.confusion is None:
            return
        names, counts = self._job.data.images.class_names, measurement.confusion
        self._tracker.figure("server/confusion", confusion_matrix(counts.numpy(), names))
        table = io.StringIO()
        csv.writer(table).writerows([["true class", *names], *zip(names, *counts.T.tolist(), strict=True)])
        write_whole(self._directory.confusion, table.getvalue().encode())

    def _write_final_figures(self, measurement: Measurement) -> None:
        final = {
            "final/test_accuracy": measurement.accuracy,
            "final/test_loss": measurement.loss,
            "final/own_test_accuracy": measurement.own_accuracy,
        }
        algorithm = type(self._job.algorithm).__name__
        self._tracker.hyper_parameters(
            {"algorithm": algorithm, "seed": self._job.seed, "clients": self._job.data.num_clients},
            {name: value for name, value in final.items() if value is not None},
        )

    def _save_models(self, rounds: int, state: ServerState) -> None:
        """Write the global model, if there is one, and the models that clients keep."""
        facts = {
            "rounds": rounds,
            "image_shape": list(self._job.blueprint.image_shape),
            "class_names": list(self._job.data.images.class_names),
        }
        if not self._job.own_models.exist:
            save_checkpoint(self._directory.checkpoint, state.model, facts)
        for client, model in self._job.clients_models(state):
            own = {"client": client, "level": self._job.pool.levels[client]}
            save_checkpoint(self._directory.client_checkpoint(client), model, {**facts, **own})


def mean(values: Sequence[float]) -> float:
    """Return the mean, nan of nothing."""
    return sum(values) / len(values) if values else float("nan")


def generator_facts(upload: GeneratorReply) -> dict[str, Any]:
    """Return what the summary says of a client's generator."""
    counts = upload.class_counts
    told = ("coverage", "nearest_neighbour_ratio", "attempts")
    metrics = {name: upload.metrics[name] for name in told if name in upload.metrics}
    return {"client": upload.client, "images": int(counts.sum()), "classes": int((counts > 0).sum()), **metrics}
