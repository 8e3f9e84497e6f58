"""Answer requests for a client. Only this module and ``local_training`` join requests and data."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from mosaic.batches import steps_for
from mosaic.client.generator_quality import measure_generator
from mosaic.client.local_training import LocalTraining
from mosaic.client.own_models import OwnModels
from mosaic.client.program import ClientProgram
from mosaic.client.prototypes import class_prototypes
from mosaic.data.module import ClientData, FederatedDataModule
from mosaic.generation.base import NoGeneratorError, OwnImages
from mosaic.losses.priors import label_prior
from mosaic.messages import (
    ClientState,
    Declined,
    EvaluateReply,
    EvaluateRequest,
    GeneratorReply,
    GeneratorRequest,
    PrototypeReply,
    PrototypeRequest,
    ReleaseRequest,
    Reply,
    Request,
    TrainRequest,
)
from mosaic.model_pool import ModelPool
from mosaic.nets.classifier import Classifier
from mosaic.nets.image_generator import ImageGenerator
from mosaic.nets.inference import predict, to_pixels
from mosaic.seeding import seed_for
from mosaic.tasks.classification import OptimizerFactory
from mosaic.training.phases import PhaseRunner
from mosaic.training.task import Task

QUALITY_IMAGES = 512
"""Generated images to compare with a client's own."""


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
        self.training = LocalTraining(data, pool, self._own, optimizer, program.objective, phases, seed)

    @property
    def images(self) -> list[int]:
        """Training images of every client."""
        counts: list[int] = self._data.class_counts.sum(1).tolist()
        return counts

    @property
    def largest_model_bytes(self) -> int:
        """Bytes of the largest model of any client."""
        return max(sum(each.nbytes for each in self._pool.of(i).skeleton.values()) for i in range(len(self.images)))

    def hear(self, client: int, class_counts: Tensor) -> None:
        """Note how many images of each class a client that is elsewhere trains on."""
        self._data.hear(client, class_counts)

    def handle(self, request: Request, state: ClientState) -> tuple[Reply, ClientState]:
        """Answer one request, and return the reply and the client's new state."""
        data = self._data.client(request.client)
        match request:
            case TrainRequest():
                return self.training.alone(request, data, state)
            case GeneratorRequest():
                left = state if self._pool.keeps_own(request.client) else ClientState({})
                return self._generate(request, data, state), left
            case PrototypeRequest():
                return self._summarise(request, data), state
            case EvaluateRequest():
                return self._evaluate(request, data, state), state
            case ReleaseRequest():
                return Declined(request.client, "it has no budget of differential privacy to release sums with"), state

    def _generate(self, request: GeneratorRequest, data: ClientData, state: ClientState) -> Reply:
        if not state.tensors:
            return Declined(request.client, "it has kept no trained model to guide a generator")
        generation = self._program.generation
        counts = torch.where(data.class_counts >= generation.min_count, data.class_counts, 0)
        if counts.sum() == 0:
            return Declined(
                request.client, f"it has no class with {generation.min_count} images to learn a generator of"
            )
        own = replace(data, train=_of(counts, data, data.train), class_counts=counts)
        guide = self._pool.of(request.client).build(state.tensors)
        try:
            fitted = generation.fit(self._own_images(request, guide, own))
        except NoGeneratorError as error:
            return Declined(request.client, str(error))
        metrics = {
            **{name: float(curve[-1]) for name, curve in fitted.curves.items()},
            **self._measure(request, fitted.generator, guide, own),
            **{"attempts": fitted.attempts, "steps": fitted.steps, "discriminator_steps": fitted.discriminator_steps},
        }
        return GeneratorReply(request.client, fitted.generator.state_dict(), counts, metrics, fitted.curves)

    def _own_images(self, request: GeneratorRequest, guide: Classifier, own: ClientData) -> OwnImages:
        """Return the client's images and the means to train a generator on them."""

        def train(task: Task, batch_size: int, steps: int, epochs: float) -> dict[str, Tensor]:
            taken = steps_for(steps, epochs, len(own.train), batch_size)
            return self._run(request, "generator", task, own, batch_size, taken)

        return OwnImages(
            pixels=lambda: to_pixels(own.images.pixels[own.train]),
            labels=own.images.labels[own.train],
            class_counts=own.class_counts,
            prior=label_prior(own.class_counts, self._program.prior_epsilon),
            guide=guide,
            train=train,
            seed=partial(seed_for, self._seed, request.round, request.client),
        )

    def _measure(
        self, request: GeneratorRequest, generator: ImageGenerator, guide: Classifier, own: ClientData
    ) -> dict[str, float]:
        pixels, held_out = own.images.pixels, _of(own.class_counts, own, own.validation)
        seed = seed_for(self._seed, request.round, request.client, "generator/quality")
        settings = self._phases.device, seed, self._phases.dry_run.batch(QUALITY_IMAGES)
        return measure_generator(generator, guide, pixels[own.train], own.class_counts, pixels[held_out], *settings)

    def _summarise(self, request: PrototypeRequest, data: ClientData) -> Reply:
        net = self._pool.blueprint.build(request.model)
        own = self._phases.dry_run.images(data.train)
        features = predict(net, data.images.pixels[own], self._phases.device, ask=net.features)
        settings = self._program.prototypes
        if self._phases.dry_run:
            settings = replace(settings, min_count=1)
        seed = seed_for(self._seed, request.round, request.client, "prototypes")
        return PrototypeReply(request.client, *class_prototypes(features, data.images.labels[own], settings, seed))

    def _evaluate(self, request: EvaluateRequest, data: ClientData, state: ClientState) -> Reply:
        blueprint = self._pool.blueprint if request.model else self._pool.of(request.client)
        net = blueprint.build(self._own.join(request.client, request.model, state))
        return EvaluateReply(request.client, **self.training.judge(net, data))

    def _run(
        self,
        request: TrainRequest | GeneratorRequest,
        phase: str,
        task: Task,
        data: ClientData,
        batch_size: int,
        steps: int,
    ) -> dict[str, Tensor]:
        batches = self.training.batches(request, phase, data, batch_size, steps)
        return self._phases.run(task, batches, seed_for(self._seed, request.round, request.client, phase))


def _of(class_counts: Tensor, data: ClientData, indices: Tensor) -> Tensor:
    """Return the indices whose images are of a counted class."""
    return indices[class_counts[data.images.labels[indices]] > 0]
