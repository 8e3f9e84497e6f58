"""How long clients may take, and how many of them must answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from mosaic.errors import MosaicError, require_at_least_zero, require_positive, require_share, require_whole
from mosaic.messages import EvaluateRequest, GeneratorRequest, PrototypeRequest, ReleaseRequest, TrainRequest

Phase = Literal["train", "generate", "summarise", "judge"]
PHASES: dict[type, Phase] = {
    TrainRequest: "train",
    GeneratorRequest: "generate",
    PrototypeRequest: "summarise",
    ReleaseRequest: "summarise",
    EvaluateRequest: "judge",
}
"""Which phase a request belongs to."""
_SECTION = "federation.faults"
_USUAL_QUORUM = 0.5
_TOLERANCE = 1e-9
"""Of a quorum, whose product with a number of clients is rounded."""


@dataclass(frozen=True)
class Faults:
    """When a client counts as missing, and how many may be.

    Deadline and quorum are one number for all phases, or numbers by phase (``train``, ``generate``, ``summarise``,
    ``judge``); a phase that is not named has the default.

    Attributes:
        deadline: seconds within which a client must answer a request; without it nobody is late.
        quorum: share of the clients asked in a phase that must answer, or the run ends with code 69. A client that
            declines has answered; one that failed, is late or has vanished, or whose reply was refused, has not. Of
            what a client sends once in a run, clients that have sent it in an earlier round count too.
        retries: how often a request without an answer is asked again at once before its client counts as missing.
    """

    deadline: float | dict[str, float] | None = None
    quorum: float | dict[str, float] = _USUAL_QUORUM
    retries: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            MosaicError: a phase does not exist, or a value is out of its range.
        """
        deadline = {} if self.deadline is None else _by_phase("deadline", self.deadline)
        require_positive(_SECTION, **{f"deadline{phase}": value for phase, value in deadline.items()})
        quorum = _by_phase("quorum", self.quorum)
        require_share(_SECTION, **{f"quorum{phase}": value for phase, value in quorum.items()})
        require_whole(_SECTION, retries=self.retries)
        require_at_least_zero(_SECTION, retries=self.retries)

    def deadline_of(self, phase: Phase) -> float | None:
        """Return the seconds that a client has for an answer, ``None`` without an end."""
        return self.deadline.get(phase) if isinstance(self.deadline, Mapping) else self.deadline

    def quorum_of(self, phase: Phase) -> float:
        """Return the share of the clients that must answer."""
        return self.quorum.get(phase, _USUAL_QUORUM) if isinstance(self.quorum, Mapping) else self.quorum

    def suffices(self, phase: Phase, answered: int, asked: int) -> bool:
        """Whether so many answers are enough.

        >>> [Faults(quorum={"train": 0.55}).suffices("train", answered, 20) for answered in (10, 11)]
        [False, True]
        """
        return answered >= self.quorum_of(phase) * asked - _TOLERANCE


def _by_phase(key: str, given: float | dict[str, float]) -> dict[str, float]:
    """Return the values by the ending of their key."""
    if not isinstance(given, Mapping):
        return {"": given}
    if strange := sorted(given.keys() - set(get_args(Phase))):
        raise MosaicError(
            f"{_SECTION}.{key}: expected numbers by phase, out of {', '.join(get_args(Phase))}, got {strange[0]}"
        )
    return {f".{phase}": value for phase, value in given.items()}
