"""Ask the clients of one round."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from mosaic.client.prototypes import PrototypeSettings
from mosaic.messages import (
    EvaluateReply,
    EvaluateRequest,
    Executor,
    GeneratorReply,
    GeneratorRequest,
    PrototypeReply,
    PrototypeRequest,
    ReleaseReply,
    ReleaseRequest,
    Reply,
    Request,
    StateDict,
    TrainReply,
    TrainRequest,
)
from mosaic.model_pool import ModelPool
from mosaic.server.asking import Asker
from mosaic.server.context import RoundPlan
from mosaic.server.faults import Faults
from mosaic.server.inspection import Inspector
from mosaic.server.uploads import Uploads

U = TypeVar("U", bound=Uploads)


class Judgement(NamedTuple):
    """What the clients of a round say of a model, each of shape ``(clients, C)``.

    Attributes:
        correct: validation images that the model gets right.
        total: validation images.
        loss: their summed cross-entropy in nats.
        clients: which client each row comes from.
        missing: clients that were asked and have said nothing.
    """

    correct: Tensor
    total: Tensor
    loss: Tensor
    clients: tuple[int, ...]
    missing: tuple[int, ...] = ()

    def of(self, clients: Collection[int]) -> "Judgement":
        """Return what these clients say."""
        rows = [row for row, client in enumerate(self.clients) if client in clients]
        kept = tuple(self.clients[row] for row in rows)
        return Judgement(self.correct[rows], self.total[rows], self.loss[rows], kept, self.missing)

    def figures(self) -> tuple[int, float]:
        """Return correct images and mean cross-entropy over all clients; the latter is 0 where there is no image."""
        return int(self.correct.sum()), float(self.loss.sum() / self.total.sum().clamp(min=1))

    def merit(self) -> tuple[int, float]:
        """Return the order of models: more images right, then a smaller cross-entropy."""
        correct, loss = self.figures()
        return correct, -loss


class Cohort:
    """Asks the clients of one round; replies come in client order.

    A reply that is not what was asked for is refused, and the round goes on without its client. So it does without one
    that fails, is late or has vanished, unless too few are left.

    Args:
        executor: carries requests.
        plan: who takes part and how.
        pool: which client runs which model.
        images: training images that each client has announced, by client; absent where nobody knows.
        judge_received: whether clients judge the model that they receive before they train.
        faults: how long clients may take, and how many must answer.
        on_reply: is shown every reply that is believed.
        on_missing: is told the request of a client that counts as missing, and why.
        judging: whether clients may be asked to judge at all.
        validation: most images that each client can validate on, by client; absent where nobody knows.
        prototypes: how clients summarise their images.
    """

    def __init__(
        self,
        executor: Executor,
        plan: RoundPlan,
        pool: ModelPool,
        images: Mapping[int, int] = MappingProxyType({}),
        judge_received: bool = False,
        faults: Faults = Faults(),
        on_reply: Callable[[Reply], None] = lambda _: None,
        on_missing: Callable[[Request, str], None] = lambda *_: None,
        judging: bool = True,
        validation: Mapping[int, int] = MappingProxyType({}),
        prototypes: PrototypeSettings | None = None,
    ) -> None:
        self._plan, self._pool, self._inspector = plan, pool, Inspector(pool, images, validation, prototypes)
        self._asker = Asker(executor, faults, plan.round, on_reply, on_missing)
        self._judge_received, self._judging, self._sent = judge_received and judging, judging, StateDict()
        self._judgements: dict[int, StateDict] = {}
        self._blind: set[int] = set()
        self._heard: list[tuple[StateDict, Judgement]] = []
        self._summaries: list[tuple[StateDict, list[PrototypeReply]]] = []

    def train(
        self,
        model: StateDict,
        collect: Callable[[ModelPool, int, StateDict], U],
        keep: Collection[int] = (),
        returned: Mapping[str, StateDict] = MappingProxyType({}),
        replay: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> U:
        """Let every client of the round train, and collect what they upload as it arrives.

        Args:
            model: weights to start from; each client gets the part that it runs, or nothing if it keeps its own.
            collect: what uploads are folded into, such as :class:`~mosaic.server.uploads.Uploads` for their average.
            keep: clients that keep the trained model for a later request of this round.
            returned: for clients that keep their own model, by client: a better one of the same architecture.
            replay: generated images that every client trains on besides its own (:mod:`mosaic.client.replay`).
        """
        plan, pool, judge = self._plan, self._pool, self._judged_on_receipt(model)
        uploads = collect(pool, plan.round, model)
        requests = (
            TrainRequest(
                client,
                plan.round,
                returned.get(str(client)) or pool.part(model, client, plan.round),
                plan.steps,
                plan.epochs,
                plan.learning_rate,
                keep=client in keep or pool.keeps_own(client),
                upload=uploads.takes_own_models or not pool.keeps_own(client),
                judge=judge and self._can_judge(model, client),
                replay=dict(replay),
            )
            for client in plan.clients
        )
        self._sent = model
        for reply in self._asker.ask(requests, TrainReply, self._inspector):
            if reply.metrics.get("validation_images") == 0:
                self._blind.add(reply.client)
            elif reply.judgement:
                self._judgements[reply.client] = reply.judgement
            uploads.add(reply)
        return uploads

    def generators(
        self, clients: Iterable[int], agreed: Callable[[Tensor], StateDict], known: Collection[int] = ()
    ) -> list[GeneratorReply]:
        """Let these clients train a generator each and upload it.

        Args:
            clients: who is asked.
            agreed: gives a generator with the names, shapes and types that all have agreed on, by images per class.
            known: who has sent one in an earlier round.
        """
        requests = (GeneratorRequest(client, self._plan.round) for client in clients)
        expecting = replace(self._inspector, generator=agreed)
        return list(self._asker.ask(requests, GeneratorReply, expecting, self._present(known)))

    def prototypes(self, model: StateDict) -> list[PrototypeReply]:
        """Let every client of the round summarise its images in the features of this model; asked once."""
        for known, replies in self._summaries:
            if known is model:
                return replies
        plan = self._plan
        requests = (PrototypeRequest(client, plan.round, model) for client in plan.clients)
        self._summaries.append((model, list(self._asker.ask(requests, PrototypeReply, self._inspector))))
        return self._summaries[-1][1]

    def releases(
        self, clients: Iterable[int], features: int, noise: Mapping[str, float], known: Collection[int] = ()
    ) -> list[ReleaseReply]:
        """Let these clients release noisy sums over their images.

        Args:
            clients: who is asked.
            features: number of public features of an image.
            noise: standard deviation of what each client adds to each sum, by name.
            known: who has released them in an earlier round.
        """
        requests = (ReleaseRequest(client, self._plan.round) for client in clients)
        expecting = replace(self._inspector, features=features, noise=noise)
        return list(self._asker.ask(requests, ReleaseReply, expecting, self._present(known)))

    def _present(self, clients: Collection[int]) -> int:
        return len({*clients} & {*self._plan.clients})

    @property
    def received(self) -> Judgement | None:
        """The clients' judgement of the model that they received for training, if any were asked for one."""
        judges = self._judges_of(self._sent)
        return self._joined(self._judgements, judges) if judges and self._judged_on_receipt(self._sent) else None

    def evaluate(self, model: StateDict) -> Judgement:
        """Let clients judge a model on their validation images.

        Clients add what they keep of a model to themselves; of an empty one, all judge the model of their own. Clients
        without validation images, or that judged this model when they received it, are not asked, and nobody is asked
        twice about the same model.
        """
        for known, judgement in self._heard:
            if model and model is known:
                return judgement
        judges, said = self._judges_of(model), dict(self._judgements) if model and model is self._sent else {}
        requests = (EvaluateRequest(client, self._plan.round, model) for client in judges)
        for reply in self._asker.ask(requests, EvaluateReply, self._inspector) if judges and not said else ():
            said[reply.client] = reply.judgement
        self._heard.append((model, self._joined(said, judges)))
        return self._heard[-1][1]

    def _judges_of(self, model: StateDict) -> list[int]:
        """Return the clients of the round that may have something to say of a model."""
        return [client for client in self._plan.clients if client not in self._blind and self._can_judge(model, client)]

    def _can_judge(self, model: StateDict, client: int) -> bool:
        return self._judging and (not model or self._pool.can_run_whole(client))

    def _judged_on_receipt(self, model: StateDict) -> bool:
        """Whether clients judge a model as they receive it for training.

        Where some that can judge it receive a part of it, or nothing, nobody does: rounds are compared by what the same
        clients say.
        """
        return self._judge_received and (not model or self._pool.judges_receive_whole)

    def _joined(self, judgements: Mapping[int, StateDict], judges: Iterable[int]) -> Judgement:
        """Stack the judgements of clients, out of those that were asked."""
        missing = tuple(client for client in judges if client not in judgements)
        correct, total, loss = (
            torch.stack([said[name] for said in judgements.values()]) if judgements else self._nothing
            for name in ("correct", "total", "loss")
        )
        return Judgement(correct, total, loss, tuple(judgements), missing)

    @property
    def _nothing(self) -> Tensor:
        return torch.zeros(0, self._pool.blueprint.num_classes)
