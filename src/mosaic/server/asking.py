"""Ask the clients of one phase: inspect every reply, ask again, and go on while enough of them answer."""

import logging
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from mosaic.errors import MosaicError, printable
from mosaic.messages import (
    Declined,
    EvaluateReply,
    Executor,
    Failed,
    GeneratorReply,
    PrototypeReply,
    ReleaseReply,
    Reply,
    Request,
    TrainReply,
    noting,
)
from mosaic.server.faults import PHASES, Faults
from mosaic.server.inspection import KINDS, Inspector, UnfitReplyError

log = logging.getLogger(__name__)
R = TypeVar("R", TrainReply, GeneratorReply, PrototypeReply, ReleaseReply, EvaluateReply)
_PHASES = {reply: PHASES[request] for request, reply in KINDS.items()}


class QuorumError(MosaicError):
    """Too few clients of a phase have answered; EX_UNAVAILABLE of sysexits.h."""

    exit_code = 69


@dataclass(frozen=True)
class Asker:
    """Asks clients and passes on what can be believed.

    Attributes:
        executor: carries requests.
        faults: how long clients may take, and how many must answer.
        round: communication round.
        on_reply: is shown every reply that is believed.
        on_missing: is told the request of a client that counts as missing, and why.
    """

    executor: Executor
    faults: Faults
    round: int
    on_reply: Callable[[Reply], None]
    on_missing: Callable[[Request, str], None]

    def ask(self, requests: Iterable[Request], expected: type[R], inspector: Inspector, before: int = 0) -> Iterator[R]:
        """Yield the replies of the clients that answer, in the order of the requests.

        Args:
            requests: at most one for each client.
            expected: kind of the replies.
            inspector: says which of them can be believed.
            before: clients of the round that have answered this in an earlier one, and count for the quorum.

        Raises:
            QuorumError: after the last reply, if too few have answered.
        """
        asked: deque[Request] = deque()
        missing: dict[int, str] = {}
        phase, total = _PHASES[expected], 0
        deadline = self.faults.deadline_of(phase)
        for first in self.executor.map(noting(requests, asked), deadline):
            request, total = asked.popleft(), total + 1
            reply, reason = self._asked_again(request, first, inspector, deadline)
            if reason is not None:
                missing[request.client] = reason
                self.on_missing(request, reason)
            elif isinstance(reply, Declined):
                log.warning("round %d: client %d declined: %s", self.round, request.client, reply.reason)
            else:
                assert isinstance(reply, expected)
                self.on_reply(reply)
                yield reply
        every = before + total
        if not self.faults.suffices(phase, every - len(missing), every):
            earlier = f", {before} of them in earlier rounds" if before else ""
            raise QuorumError(
                f"round {self.round}: expected answers of at least {self.faults.quorum_of(phase):g} of the {every} "
                f"clients asked (federation.faults.quorum, phase {phase}), got {every - len(missing)}{earlier}; "
                f"missing: {_by_reason(missing)}: {_advice(missing, every)}"
            )

    def _asked_again(
        self, request: Request, reply: Reply, inspector: Inspector, deadline: float | None
    ) -> tuple[Reply, str | None]:
        """Ask again while there is no answer and a retry is left; return the last reply and what is wrong with it."""
        for attempt in range(1 + self.faults.retries):
            if attempt:
                log.warning("round %d: client %d is asked again", self.round, request.client)
                (reply,) = self.executor.map([request], deadline)
            if (reason := _fault(request, reply, inspector)) is None:
                break
            log.warning("round %d: client %d failed: %s", self.round, request.client, reason)
        return reply, reason


def _fault(request: Request, reply: Reply, inspector: Inspector) -> str | None:
    """Return why a reply is no answer; nothing if it is one."""
    match reply:
        case Declined(client=client) if client == request.client:
            return None
        case Failed(client=client, reason=reason) if client == request.client:
            return reason
    try:
        inspector.check(request, reply)
    except UnfitReplyError as error:
        return f"its reply was refused: {printable(str(error))}"
    return None


def _advice(missing: Mapping[int, str], asked: int) -> str:
    """Say what to fix: a quorum is none where everybody fails alike."""
    if len(missing) == asked > 1 and len(set(missing.values())) == 1:
        return "one reason for all of them, so fix what they share, such as the code or the settings"
    return "fix them or lower the quorum"


def _by_reason(missing: Mapping[int, str]) -> str:
    clients: dict[str, list[str]] = defaultdict(list)
    for client, reason in missing.items():
        clients[reason].append(str(client))
    return "; ".join(f"client {', '.join(numbers)} ({reason})" for reason, numbers in clients.items())
