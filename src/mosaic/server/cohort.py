"""Ask the clients of one round."""

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from mosaic.errors import MosaicError
from mosaic.messages import (
    Declined,
    EvaluateReply,
    EvaluateRequest,
    Executor,
    Failed,
    GeneratorReply,
    GeneratorRequest,
    PrototypeReply,
    PrototypeRequest,
    Reply,
    Request,
    StateDict,
    TrainReply,
    TrainRequest,
    noting,
)
from mosaic.model_pool import ModelPool
from mosaic.server.context import RoundPlan
from mosaic.server.inspection import Inspector, UnfitReplyError
from mosaic.server.uploads import Uploads

log = logging.getLogger(__name__)
R = TypeVar("R", TrainReply, GeneratorReply, PrototypeReply, EvaluateReply)
U = TypeVar("U", bound=Uploads)


class ClientsFailedError(MosaicError):
    """Too many clients of a phase have failed."""

    exit_code = 1


class Judgement(NamedTuple):
    """What the clients of a round say of a model, each of shape ``(clients, C)``.

    Attributes:
        correct: validation images that the model gets right.
        total: validation images.
        loss: their summed cross-entropy in nats.
    """

    correct: Tensor
    total: Tensor
    loss: Tensor

    def figures(self) -> tuple[int, float]:
        """Return correct images and mean cross-entropy over all clients; the latter is 0 where there is no image."""
        return int(self.correct.sum()), float(self.loss.sum() / self.total.sum().clamp(min=1))

    def merit(self) -> tuple[int, float]:
        """Return the order of models: more images right, then a smaller cross-entropy."""
        correct, loss = self.figures()
        return correct, -loss


class Cohort:
    """Asks the clients of one round; replies come in client order.

    A reply that is not what was asked for is refused, and the round goes on as if the client had declined. So it does
    without a client whose code has raised, unless too many fail.

    Args:
        executor: carries requests.
        plan: who takes part and how.
        pool: which client runs which model.
        images: training images that each client has announced, by client; absent where nobody knows.
        judges: whether clients judge the model that they receive before they train.
        max_failed: share of the clients that are asked together who may fail, or send what is refused.
        on_reply: is shown every reply that is believed.
        on_refusal: is told the request, and why there is no reply to it.
    """

    def __init__(
        self,
        executor: Executor,
        plan: RoundPlan,
        pool: ModelPool,
        images: Mapping[int, int] = MappingProxyType({}),
        judges: bool = False,
        max_failed: float = 0.5,
        on_reply: Callable[[Reply], None] = lambda _: None,
        on_refusal: Callable[[Request, str], None] = lambda *_: None,
    ) -> None:
        self._executor, self._plan, self._pool = executor, plan, pool
        self._inspector, self._max_failed = Inspector(pool, images), max_failed
        self._on_reply, self._on_refusal = on_reply, on_refusal
        self._judges, self._sent = judges, StateDict()
        self._judgements: list[StateDict] = []
        self._blind: set[int] = set()

    def train(
        self,
        model: StateDict,
        collect: Callable[[ModelPool, int, StateDict], U],
        keep: Collection[int] = (),
        returned: Mapping[str, StateDict] = MappingProxyType({}),
    ) -> U:
        """Let every client of the round train, and collect what they upload as it arrives.

        Args:
            model: weights to start from; each client gets the part that it runs, or nothing if it keeps its own.
            collect: what uploads are folded into, such as :class:`~mosaic.server.uploads.Uploads` for their average.
            keep: clients that keep the trained model for a later request of this round.
            returned: for clients that keep their own model, by client: a better one of the same architecture.
        """
        plan, pool = self._plan, self._pool
        requests = (
            TrainRequest(
                client,
                plan.round,
                returned.get(str(client)) or pool.part(model, client, plan.round),
                plan.steps,
                plan.epochs,
                plan.learning_rate,
                keep=client in keep or pool.keeps_own(client),
                upload=plan.distils or not pool.keeps_own(client),
                judge=self._judges and self._can_judge(model, client),
            )
            for client in plan.clients
        )
        self._sent = model
        uploads = collect(pool, plan.round, model)
        for reply in self._ask(requests, TrainReply):
            if reply.metrics.get("validation_images") == 0:
                self._blind.add(reply.client)
            elif reply.judgement:
                self._judgements.append(reply.judgement)
            uploads.add(reply)
        return uploads

    def generators(
        self, clients: Iterable[int], agreed: Callable[[Tensor], StateDict] | None = None
    ) -> list[GeneratorReply]:
        """Let these clients train a generator each and upload it.

        Args:
            clients: who is asked.
            agreed: gives a generator with the names, shapes and types that all have agreed on, by images per class.
        """
        requests = (GeneratorRequest(client, self._plan.round) for client in clients)
        return list(self._ask(requests, GeneratorReply, replace(self._inspector, generator=agreed)))

    def prototypes(self, model: StateDict) -> list[PrototypeReply]:
        """Let every client of the round summarise its images in the features of this model."""
        plan = self._plan
        requests = (PrototypeRequest(client, plan.round, model) for client in plan.clients)
        return list(self._ask(requests, PrototypeReply))

    @property
    def received(self) -> Judgement | None:
        """The clients' judgement of the model that they received for training, if they were asked for one."""
        return self._joined(self._judgements) if self._judges else None

    def evaluate(self, model: StateDict) -> Judgement:
        """Let clients judge a model on their validation images.

        Clients add what they keep of a model to themselves; of an empty one, all judge the model of their own. Nobody
        is asked who has said that it has no such images, or who has judged this very model when it received it.
        """
        if model and model is self._sent and self._judgements:
            return self._joined(self._judgements)
        plan = self._plan
        judges = [client for client in plan.clients if client not in self._blind and self._can_judge(model, client)]
        if not judges:
            return self._joined([])
        replies = list(self._ask((EvaluateRequest(client, plan.round, model) for client in judges), EvaluateReply))
        if not replies:
            raise ClientsFailedError(f"round {plan.round}: expected a client to judge the model, and none did")
        return self._joined([reply.judgement for reply in replies])

    def _can_judge(self, model: StateDict, client: int) -> bool:
        return not model or self._pool.can_judge(client)

    def _joined(self, judgements: Sequence[StateDict]) -> Judgement:
        """Stack the clients' judgements; none at all counts as one client without images."""
        if not judgements:
            return Judgement(*torch.zeros(3, 1, self._pool.blueprint.num_classes))
        return Judgement(*(torch.stack([said[name] for said in judgements]) for name in Judgement._fields))

    def _ask(self, requests: Iterable[Request], expected: type[R], inspector: Inspector | None = None) -> Iterator[R]:
        asked: deque[Request] = deque()
        failures, total = {}, 0
        for reply in self._executor.map(noting(requests, asked)):
            request, total = asked.popleft(), total + 1
            round, client = request.round, request.client
            match reply:
                case Declined(client=number, reason=reason) if number == client:
                    log.warning("round %d: client %d declined: %s", round, client, reason)
                case Failed(client=number, traceback=traceback) if number == client:
                    log.error("round %d: client %d failed:\n%s", round, client, traceback)
                    failures[client] = f"its code failed: {traceback.strip().splitlines()[-1]}"
                    self._on_refusal(request, failures[client])
                case _:
                    try:
                        (inspector or self._inspector).check(request, reply)
                    except UnfitReplyError as error:
                        log.warning("round %d: client %d's reply is refused: %s", round, client, error)
                        failures[client] = f"its reply was refused: {error}"
                        self._on_refusal(request, failures[client])
                    else:
                        assert isinstance(reply, expected)
                        self._on_reply(reply)
                        yield reply
        if len(failures) > self._max_failed * total:
            client, reason = next(iter(failures.items()))
            raise ClientsFailedError(
                f"round {self._plan.round}: {len(failures)} of {total} clients failed, more than federation.max_failed "
                f"({self._max_failed:g}) of them; client {client}: {reason}"
            )
