"""Choose settings for each algorithm: by the clients' validation images, never by the test split."""

import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mosaic.comparison.budget import Made
from mosaic.comparison.outcome import Failure, Outcome
from mosaic.comparison.request import Make, RunRequest, first_of_each
from mosaic.errors import MosaicError

Finish = Callable[[Sequence[RunRequest]], list[Outcome | Failure]]
"""Run requests; return their results in the same order."""


@dataclass(frozen=True)
class Choice:
    """A setting, and the values among which every algorithm chooses; the first wins where others are no better."""

    key: str
    values: tuple[str, ...]

    @property
    def settings(self) -> list[str]:
        """The setting with each of its values, as ``KEY=VALUE``."""
        return [f"{self.key}={value}" for value in self.values]


def read_choices(text: str) -> list[Choice]:
    """Read ``KEY=V1,V2,...``, separated by spaces.

    >>> read_choices("federation.schedule.learning_rate=0.01,0.1")
    [Choice(key='federation.schedule.learning_rate', values=('0.01', '0.1'))]
    """
    choices = []
    for part in text.split():
        key, _, listed = part.partition("=")
        values = tuple(value for value in listed.split(",") if value)
        if not key or len(set(values)) < max(2, len(values)):
            raise MosaicError(
                f"--tune: expected KEY=V1,V2,... with two different values or more, got {part!r}: for example "
                "federation.schedule.learning_rate=0.01,0.03,0.1"
            )
        choices.append(Choice(key, values))
    if len({choice.key for choice in choices}) < len(choices):
        raise MosaicError(f"--tune: expected every key once, got {', '.join(choice.key for choice in choices)}")
    return choices


def require_same_choices(requests: Sequence[RunRequest], choices: Sequence[Choice], outcomes: Path) -> None:
    """Refuse, before anything is tried, outcomes of these requests that have chosen other settings, or none.

    Raises:
        MosaicError: there is one.
    """
    asked, keys = {(request.algorithm, request.seed) for request in requests}, [choice.key for choice in choices]
    for outcome in Outcome.read_all(outcomes):
        chosen = [setting.partition("=")[0] for setting in outcome.tuned]
        if (outcome.algorithm, outcome.seed) in asked and chosen != keys:
            raise MosaicError(
                f"{outcomes} holds the outcome of {outcome.algorithm}, seed {outcome.seed}, which has chosen "
                f"{' and '.join(chosen) or 'nothing'}, where --tune asks for {' and '.join(keys)}: choose another "
                "--output"
            )


def check_all(
    make: Callable[[RunRequest], object],
    requests: Sequence[RunRequest],
    choices: Sequence[Choice],
    done: Collection[str] = (),
) -> None:
    """Refuse requests with which no run could begin, and choices that nobody could make, before any run begins.

    Args:
        make: raises :class:`MosaicError` at a request with which no run could begin.
        requests: of the whole table; of those that differ in their seed alone, one is asked.
        choices: what algorithms choose; a value that fails, or a key that only some of them have, is no fault here.
        done: algorithms of which runs are there already: these can be made, or could once.

    Raises:
        MosaicError: a key is unknown, or a value out of its range.
    """
    first = first_of_each(requests).values()
    missing = [request for request in first if request.algorithm not in done]
    for request in missing:
        make(request)
    settings = _first_settings(choices)
    for place, choice in enumerate(choices if missing else ()):
        errors: list[MosaicError] = []
        for tried in (replace(request, tuned=each) for request in first for each in _tries(settings, choice, place)):
            try:
                make(tried)
                break
            except MosaicError as error:
                errors.append(error)
        else:
            raise errors[0]


def made(make: Make, request: RunRequest) -> Made:
    """Return what a request's configuration makes.

    Raises:
        MosaicError: no run of it could begin; the row is named.
    """
    with tempfile.TemporaryDirectory(prefix="mosaic-compare-") as aside:
        try:
            return make(request.arguments(Path(aside)))
        except MosaicError as error:
            name = " with ".join([request.algorithm, *filter(None, [", ".join(request.tuned)])])
            raise MosaicError(f"{name}: {error}") from error


def tuned(
    requests: Sequence[RunRequest], choices: Sequence[Choice], finish: Finish, outcomes: Path
) -> list[RunRequest]:
    """Choose every algorithm's settings on the first of its requests; return all requests with their settings.

    One setting is chosen after the other, for all algorithms side by side: those before it have their chosen values,
    those after it their first ones.

    Args:
        requests: of a comparison.
        choices: the settings, at least one.
        finish: runs requests, each under a name of its own, and knows those that it has run before.
        outcomes: file of the comparison's outcomes; the chosen run is not run again.

    Raises:
        MosaicError: no run with any value of a setting has finished.
    """
    first = first_of_each(requests)
    settings = dict.fromkeys(first, _first_settings(choices))
    best: dict[str, Outcome | Failure] = {}
    for place, choice in enumerate(choices):
        tried = {name: _tries(kept, choice, place) for name, kept in settings.items()}
        found = finish([_named_by(first[name], each) for name, every in tried.items() for each in every])
        if all(isinstance(result, Failure) for result in found):
            raise MosaicError(f"--tune: all {len(found)} runs that try {choice.key} have failed, as told above")
        results = iter(found)
        for name, every in tried.items():
            pairs = [(each, next(results)) for each in every]
            ended = [result for _, result in pairs if isinstance(result, Outcome)]
            if ended and all(result.validated is None for result in ended):
                raise MosaicError(
                    f"--tune: no run of {name} that tries {choice.key} has a validation accuracy to choose by: set "
                    "data.validation_share above 0 and federation.judging true, or leave --tune out"
                )
            settings[name], best[name] = max(pairs, key=lambda pair: _validated(pair[1]))
    there = {(outcome.algorithm, outcome.seed) for outcome in Outcome.read_all(outcomes)}
    for name, result in best.items():
        if isinstance(result, Outcome) and (name, result.seed) not in there:
            replace(result, algorithm=name).write(outcomes)
    return [replace(request, tuned=settings[request.algorithm]) for request in requests]


def _first_settings(choices: Sequence[Choice]) -> tuple[str, ...]:
    return tuple(choice.settings[0] for choice in choices)


def _tries(kept: tuple[str, ...], choice: Choice, place: int) -> list[tuple[str, ...]]:
    """Return what is tried of one choice: each of its settings at its place, beside those that are kept."""
    return [(*kept[:place], setting, *kept[place + 1 :]) for setting in choice.settings]


def trial_name(algorithm: str, settings: Sequence[str]) -> str:
    """Return the name under which an algorithm tries settings.

    >>> trial_name("fedavg", ["federation.schedule.learning_rate=0.1"])
    'fedavg at 0.1'
    """
    return f"{algorithm} at {', '.join(setting.partition('=')[2] for setting in settings)}"


def _named_by(request: RunRequest, settings: tuple[str, ...]) -> RunRequest:
    return replace(request, algorithm=trial_name(request.algorithm, settings), tuned=settings)


def _validated(result: "Outcome | Failure") -> float:
    """Return a run's validation accuracy; a run that failed is worse than any other."""
    return result.validated or 0.0 if isinstance(result, Outcome) else -1.0
