"""Every algorithm chooses some settings for itself: by the clients' validation images, never by the test split."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mosaic.comparison.outcome import Outcome
from mosaic.comparison.request import RunRequest
from mosaic.errors import MosaicError

if TYPE_CHECKING:
    from mosaic.comparison.runner import Failure

Finish = Callable[[Sequence[RunRequest]], list["Outcome | Failure"]]
"""Run requests; return what became of each, in their order."""


@dataclass(frozen=True)
class Choice:
    """A setting, and the values among which every algorithm chooses.

    Attributes:
        key: of the configuration, with dots.
        values: as they are written on a command line; the first wins where others are no better.
    """

    key: str
    values: tuple[str, ...]

    def with_value(self, value: str) -> str:
        """Return the setting as a flag without its dashes.

        >>> Choice("model.net.init_args.width", ("16", "32")).with_value("32")
        'model.net.init_args.width=32'
        """
        return f"{self.key}={value}"


def read_choices(text: str) -> list[Choice]:
    """Read ``KEY=V1,V2,...``, several of them with spaces between.

    Raises:
        MosaicError: the text is something else.

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


def tuned(
    requests: Sequence[RunRequest], choices: Sequence[Choice], finish: Finish, outcomes: Path
) -> list[RunRequest]:
    """Let every algorithm choose on the first of its requests; what it chose holds for all of them.

    One setting is chosen after the other, for all algorithms side by side, each with what it has chosen before; those
    that follow stay at their first values meanwhile.

    Args:
        requests: of a comparison.
        choices: the settings, at least one.
        finish: runs requests, each under a name of its own, and knows those that it has run before.
        outcomes: file of the comparison's outcomes; the run that was chosen is not run again.

    Returns:
        The requests with their settings.
    """
    first = {request.algorithm: request for request in reversed(requests)}
    settings = {name: tuple(choice.with_value(choice.values[0]) for choice in choices) for name in first}
    best: dict[str, Outcome | Failure] = {}
    for place, choice in enumerate(choices):
        tried = {
            name: [(*kept[:place], choice.with_value(value), *kept[place + 1 :]) for value in choice.values]
            for name, kept in settings.items()
        }
        results = iter(finish([_named_by(first[name], each) for name, every in tried.items() for each in every]))
        for name, every in tried.items():
            settings[name], best[name] = max(((each, next(results)) for each in every), key=lambda pair: _said(pair[1]))
    there = {(outcome.algorithm, outcome.seed) for outcome in Outcome.read_all(outcomes)}
    for name, result in best.items():
        if isinstance(result, Outcome) and (name, result.seed) not in there:
            replace(result, algorithm=name).write(outcomes)
    return [replace(request, tuned=settings[request.algorithm]) for request in requests]


def _named_by(request: RunRequest, settings: tuple[str, ...]) -> RunRequest:
    values = ", ".join(setting.partition("=")[2] for setting in settings)
    return replace(request, algorithm=f"{request.algorithm} at {values}", tuned=settings)


def _said(result: "Outcome | Failure") -> float:
    """Return what the clients' validation images say of a run; nothing is worse than a run that failed."""
    return result.validated or 0.0 if isinstance(result, Outcome) else -1.0
