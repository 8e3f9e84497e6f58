"""The figures of a finished run, small enough to keep and to commit."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from mosaic import __version__
from mosaic.comparison.request import RunRequest
from mosaic.disk import locked, write_whole
from mosaic.errors import MosaicError
from mosaic.runs.facts import read_facts
from mosaic.runs.rounds import ACCURACIES, Round, read_rounds
from mosaic.runs.students import Students, students_of
from mosaic.yaml_files import differences

_NETWORKS = ("local", "student", "generator", "discriminator")
_KEPT = ("test_accuracy", "own_test_accuracy", "rounds", "distilled", "stages", "updates", "peak_memory_bytes")
_JUDGING = ("Train", "Evaluate")
"""Requests with whose answers clients judge models."""


@dataclass(frozen=True)
class Outcome:
    """Figures of one run; accuracies are shares, on the test split unless their name says otherwise.

    Attributes:
        request: see :meth:`RunRequest.content`.
        version: of this package.
        rounds: accuracies (None where none was measured) and bytes so far, by round.
    """

    algorithm: str
    seed: int
    request: dict[str, Any]
    version: str
    date: str
    machine: str
    rounds: list[Round]
    summary: dict[str, Any]

    @classmethod
    def of(cls, request: RunRequest, run: Path) -> "Outcome":
        """Read a finished run's folder.

        Raises:
            MosaicError: the run has not finished.
        """
        file, rounds = run / "summary.json", read_rounds(run)
        if not file.is_file():
            raise MosaicError(f"{run} holds no finished run (summary.json is missing)")
        summary, where = read_facts(file), read_facts(run / "environment.json")
        kept = {key: summary[key] for key in _KEPT if key in summary}
        missing = sum(each["asked"] in _JUDGING for each in summary.get("failed", ()))
        sums = {way: sum(summary[way].values()) for way in ("bytes_up", "bytes_down", "seconds")}
        return cls(
            algorithm=request.algorithm,
            seed=request.seed,
            request=request.content(),
            version=__version__,
            date=str(date.fromtimestamp(file.stat().st_mtime)),
            machine=f"{where['cpu_count']} CPU cores ({where['processor']}), {', '.join(where['gpus']) or 'no GPU'}",
            rounds=_abridged(rounds),
            summary={
                **kept,
                "missing": missing,
                "students": students_of(rounds)._asdict(),
                **sums,
                "phases": summary["seconds"],
            },
        )

    @classmethod
    def read_all(cls, file: Path) -> list["Outcome"]:
        """Read what :meth:`write` has written; nothing where there is no file."""
        outcomes = []
        lines = file.read_text(errors="replace").splitlines() if file.is_file() else []
        for number, line in enumerate(lines, start=1):
            try:
                outcomes.append(cls(**json.loads(line)))
                outcomes[-1].check()
            except (TypeError, KeyError, ValueError, AttributeError, IndexError) as error:
                raise MosaicError(
                    f"{file}, line {number}: expected the outcome of a run: remove the line, and its run is done again"
                ) from error
        return outcomes

    def check(self) -> None:
        """Raise an error of Python's, of whatever kind, where figures are missing or something else than figures."""
        shown = (self.last, self.own, self.chosen, self.validated, self.worst_client, *map(self.updates, _NETWORKS))
        if not all(figure is None or isinstance(figure, float | int) for figure in (*shown, self.summary["seconds"])):
            raise TypeError("a figure is no number")
        if not isinstance(self.seed, int) or not isinstance(self.algorithm, str) or not isinstance(self.machine, str):
            raise TypeError("seed, algorithm or machine")
        date.fromisoformat(self.date)
        _ = self.students.refused, self.tuned, self.distils, self.summary["bytes_up"]

    def write(self, file: Path) -> None:
        """Write the outcome as a line among those of the same comparison, in place of an older one of its run.

        Several processes may write one file, which is whole at every moment.
        """
        file.parent.mkdir(parents=True, exist_ok=True)
        with locked(file.with_name(f".{file.name}.lock")):
            every = {(each.algorithm, each.seed): each for each in (*self.read_all(file), self)}
            lines = (f"{json.dumps(asdict(each))}\n" for _, each in sorted(every.items()))
            write_whole(file, "".join(lines).encode())

    def lies_in(self, run: Path) -> bool:
        """Whether a run's folder holds the run that these figures are of."""
        summary = read_facts(run / "summary.json")
        return all(summary.get(key) == self.summary[key] for key in _KEPT if key in self.summary)

    @property
    def last(self) -> float | None:
        """Accuracy of the global model after the last round."""
        return self.summary.get("test_accuracy")

    @property
    def own(self) -> float | None:
        """Mean accuracy of the models that clients keep, by images, if some do."""
        return self.summary.get("own_test_accuracy")

    @property
    def chosen(self) -> float | None:
        """Accuracy after the round with the best validation accuracy, the first among equals.

        None where rounds have different judges: the best would be the one whose judges are the easiest to please.
        """
        if not self._has_the_same_judges:
            return None
        validated = [row for row in self.rounds if row.get("validation_accuracy") is not None]
        best = max(validated, key=lambda row: row["validation_accuracy"] or 0.0, default=None)
        return None if best is None else best.get("test_accuracy")

    @property
    def _has_the_same_judges(self) -> bool:
        config = self.request.get("config", {})
        schedule, clients = (config.get("federation") or {}).get("schedule") or {}, config.get("clients") or {}
        tuned = dict(setting.split("=", 1) for setting in self.tuned)
        share = tuned.get("federation.schedule.participation") or schedule.get("participation") or 1
        given = any(clients.get(key) is not None for key in ("models", "levels", "rho"))
        differ = given or any(key.startswith("clients.") for key in tuned)
        some_judge_last = differ and clients.get("evaluate_whole", True)
        return float(share) == 1 and not some_judge_last and not self.summary.get("missing")

    @property
    def validated(self) -> float | None:
        """Accuracy on the clients' validation images after the last round."""
        return self.rounds[-1].get("validation_accuracy")

    @property
    def tuned(self) -> tuple[str, ...]:
        """Settings that the algorithm has chosen for itself, as ``KEY=VALUE``."""
        return tuple(self.request.get("tuned", ()))

    @property
    def worst_client(self) -> float | None:
        """Validation accuracy of the worst client with enough images, after the last round."""
        return self.rounds[-1].get("worst_validation_accuracy")

    @property
    def students(self) -> Students:
        """What became of the distilled models."""
        return Students(**self.summary["students"])

    @property
    def distils(self) -> bool:
        """Whether a server has distilled or should have: it had a budget, or has updated a student or generators."""
        told = any(flag.startswith("--algorithm.student_updates=") for flag in self.request.get("flags", ()))
        return told or bool(self.updates("student") or self.updates("generator"))

    def updates(self, network: str) -> int:
        """Return how often ``local`` models, the ``student``, ``generator``s or ``discriminator``s were updated."""
        return int(self.summary["updates"].get(network, 0))


@dataclass(frozen=True)
class Failure:
    """A run that has failed, and the reason in one line."""

    algorithm: str
    seed: int
    reason: str


def check_same_request(outcome: Outcome, request: RunRequest, file: Path, folder: Path) -> None:
    """Refuse an outcome in ``file`` that belongs to another request; ``folder`` is that of the run."""
    asked = request.content()
    if outcome.request != asked:
        changed = ", ".join(sorted(differences(outcome.request, asked)))
        raise MosaicError(
            f"{file} holds the outcome of another request for {outcome.algorithm}, seed {outcome.seed}; different: "
            f"{changed}: choose another --output, or remove its line and move {folder} away, and the run is done again"
        )


def _abridged(rounds: Sequence[Round]) -> list[Round]:
    """Keep of every round what a table or a plot shows."""
    kept: list[Round] = []
    total = 0.0
    for row in rounds:
        total += (row["bytes_down"] or 0.0) + (row["bytes_up"] or 0.0)
        measured = {key: row[key] for key in ACCURACIES if key in row}
        kept.append({"round": row["round"], **measured, "bytes": total})
    return kept
