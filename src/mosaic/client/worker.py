"""Answer the server's requests for a client. Only modules of mosaic.client bring requests and images together."""

from collections.abc import Hashable, Iterable, Sequence
from typing import cast

from torch import Tensor

from mosaic.client.generator_learning import GeneratorLearning
from mosaic.client.local_training import LocalTraining
from mosaic.client.own_models import OwnModels
from mosaic.client.program import ClientProgram
from mosaic.client.prototypes import class_prototypes
from mosaic.data.module import ClientData, FederatedDataModule
from mosaic.messages import (
    ClientState,
    Declined,
    EvaluateReply,
    EvaluateRequest,
    GeneratorRequest,
    PrototypeReply,
    PrototypeRequest,
    ReleaseRequest,
    Reply,
    Request,
    TrainRequest,
)
from mosaic.model_pool import ModelPool
from mosaic.nets.inference import predict
from mosaic.seeding import seed_for
from mosaic.tasks.classification import OptimizerFactory
from mosaic.training.phases import PhaseRunner


class Worker:
    """Answers requests for any client; the client's state comes with the request and leaves with the reply.

    Args:
        data: the federation's data; each request reads only the part of its client.
        pool: the model of each client.
        optimizer: makes the optimiser of local training.
        program: the client's half of the algorithm.
        phases: runs training phases.
        seed: the run's seed.
    """

    def __init__(
        self,
        data: FederatedDataModule,
        pool: ModelPool,
        optimizer: OptimizerFactory,
        program: ClientProgram,
        phases: PhaseRunner,
        seed: int,
    ) -> None:
        self._data, self._pool = data, pool
        self._program, self._phases, self._seed = program, phases, seed
        self._own = OwnModels(pool, program.personal, seed)
        self.training = LocalTraining(data, pool, self._own, optimizer, program.objective, program.replay, phases, seed)
        self._generators = GeneratorLearning(data, pool, program, self.training, phases, seed)

    @property
    def images(self) -> list[int]:
        """Training images of every client."""
        counts: list[int] = self._data.class_counts.sum(1).tolist()
        return counts

    @property
    def largest_model_bytes(self) -> int:
        """Bytes of the largest model that any client runs."""
        clients = range(len(self.images))
        whole = [self._pool.blueprint] if any(map(self._pool.can_run_whole, clients)) else []
        run = [*whole, *map(self._pool.of, clients)]
        return max(sum(each.nbytes for each in blueprint.skeleton.values()) for blueprint in run)

    def note_class_counts(self, client: int, class_counts: Tensor) -> None:
        """Note how many images of each class a client that is elsewhere trains on."""
        self._data.note_class_counts(client, class_counts)

    def handle(self, request: Request, state: ClientState) -> tuple[Reply, ClientState]:
        """Answer one request, and return the reply and the client's new state."""
        data = self._data.client(request.client)
        match request:
            case TrainRequest():
                return self.training.alone(request, data, state)
            case GeneratorRequest():
                return self._generators.alone(request, data, state)
            case PrototypeRequest():
                return self._summarise(request, data), state
            case EvaluateRequest():
                return self._evaluate(request, data, state), state
            case ReleaseRequest():
                return Declined(request.client, "it has no budget of differential privacy to release sums with"), state

    def stack_key(self, request: Request) -> Hashable | None:
        """Return what must be equal for clients to be answered in lockstep; nothing where one has to be asked alone."""
        if self._phases.scales_losses:  # an overflow of one client would skip a step of all
            return None
        match request:
            case TrainRequest():
                return self.training.stack_key(request)
            case GeneratorRequest():
                return self._generators.stack_key(request)
        return None

    def steps(self, request: Request) -> int:
        """Return the number of steps of a request in a lockstep; of generators all take as many."""
        return self.training.steps(request) if isinstance(request, TrainRequest) else 1

    def together(
        self, requests: Sequence[Request], states: Sequence[ClientState]
    ) -> Iterable[tuple[Reply, ClientState]]:
        """Answer requests of one kind and one :meth:`stack_key`, one for each client, in lockstep."""
        if isinstance(requests[0], TrainRequest):
            return self.training.together(cast(Sequence[TrainRequest], requests), states)
        return self._generators.together(cast(Sequence[GeneratorRequest], requests), states)

    def _summarise(self, request: PrototypeRequest, data: ClientData) -> Reply:
        net = self._pool.blueprint.build(request.model)
        own = self._phases.dry_run.images(data.train)
        features = predict(net, data.images.pixels[own], self._phases.device, ask=net.features)
        settings = self._program.prototypes.within(self._phases.dry_run)
        seed = seed_for(self._seed, request.round, request.client, "prototypes")
        return PrototypeReply(request.client, *class_prototypes(features, data.images.labels[own], settings, seed))

    def _evaluate(self, request: EvaluateRequest, data: ClientData, state: ClientState) -> Reply:
        blueprint = self._pool.blueprint if request.model else self._pool.of(request.client)
        net = blueprint.build(self._own.join(request.client, request.model, state))
        return EvaluateReply(request.client, **self.training.judge(net, data))
