"""Measure the models of a run on the test split and on the clients' validation images."""

from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from mosaic.federation.evaluation import Evaluator, Measurement
from mosaic.federation.job import Job
from mosaic.messages import StateDict
from mosaic.server.cohort import Cohort, Judgement
from mosaic.server.state import ServerState

SMALLEST_JUDGED_CLIENT = 20
"""Validation images below which a client's accuracy is too coarse to be called the worst."""


class Validation(NamedTuple):
    """Accuracies on the clients' validation images; nan where there are too few.

    Attributes:
        accuracy: over all images.
        worst: of the worst of several clients.
    """

    accuracy: float = float("nan")
    worst: float = float("nan")


class Measurer:
    """Measures the models of a run.

    Args:
        job: what the run works on.
        evaluator: owns the test split.
        every: rounds between measurements, by the clients and on the test split.
        rounds: of the run; the last one is always measured.
    """

    def __init__(self, job: Job, evaluator: Evaluator, every: int, rounds: int) -> None:
        self._job, self.evaluator, self._every, self._rounds = job, evaluator, every, rounds

    def due(self, round: int) -> bool:
        """Whether the clients judge this round's model."""
        return round % self._every == 0 or round == self._rounds

    def measure(self, state: ServerState) -> Measurement:
        """Measure the global model, if there is one, and the models that clients keep, on the test split."""
        images, pool = self._job.images, self._job.pool
        kept = self._job.clients_models(state)
        own = self.evaluator.measure_own((pool.of(client).build(model), images[client]) for client, model in kept)
        if self._job.own_models.exist:
            return Measurement(own_accuracy=own)
        return replace(self.evaluator.measure(self._job.blueprint.build(state.model)), own_accuracy=own)

    def validate(self, round: int, model: StateDict, cohort: Cohort) -> dict[int, Validation]:
        """Return the clients' validation of models, by the round that made them.

        They judge a model when they receive it, at the start of the next round; the last one they are asked about.
        Where some receive only a part of it, or nothing, it is the last one alone, which all of them judge.
        """
        said: dict[int, Validation] = {}
        if (received := cohort.received) is not None:
            said[round - 1] = _validation(received)
        if round == self._rounds:
            said[round] = _validation(cohort.evaluate(model))
        return said


def _validation(judgement: Judgement) -> Validation:
    correct, total = judgement.correct.sum(1), judgement.total.sum(1)
    judged = total >= SMALLEST_JUDGED_CLIENT
    several = len(total) > 1
    worst = float((correct[judged] / total[judged]).min()) if several and judged.any() else float("nan")
    return Validation(share(correct.sum(), total.sum()), worst)


def share(part: Tensor, whole: Tensor) -> float:
    """Return ``part / whole``, nan where the whole is zero."""
    return float(part / whole) if whole > 0 else float("nan")
