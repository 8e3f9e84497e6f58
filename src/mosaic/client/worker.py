"""Answer requests for a client. Only this module joins requests and data."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mosaic.batches import ShuffledBatches, StackedBatches, steps_for
from mosaic.client.generator_quality import measure_generator
from mosaic.client.objectives import LocalContext
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
    Reply,
    Request,
    StateDict,
    TrainReply,
    TrainRequest,
    are_finite,
)
from mosaic.model_pool import ModelPool
from mosaic.nets.classifier import Classifier
from mosaic.nets.image_generator import ImageGenerator
from mosaic.nets.inference import predict, to_pixels
from mosaic.seeding import generator_for, seed_for
from mosaic.tasks.classification import ClassificationTask, LocalLoss, OptimizerFactory, View
from mosaic.tasks.stacked_classification import StackedClassificationTask
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
        self._data, self._pool, self._optimizer = data, pool, optimizer
        self._program, self._phases, self._seed = program, phases, seed
        self._own = OwnModels(pool, program.personal, seed)

    @property
    def images(self) -> list[int]:
        """Training images of every client."""
        counts: list[int] = self._data.class_counts.sum(1).tolist()
        return counts

    @property
    def phases(self) -> PhaseRunner:
        """The runner of training phases."""
        return self._phases

    def handle(self, request: Request, state: ClientState) -> tuple[Reply, ClientState]:
        """Answer one request, and return the reply and the client's new state."""
        data = self._data.client(request.client)
        match request:
            case TrainRequest():
                return self._train(request, data, state)
            case GeneratorRequest():
                left = state if self._pool.keeps_own(request.client) else ClientState({})
                return self._generate(request, data, state), left
            case PrototypeRequest():
                return self._summarise(request, data), state
            case EvaluateRequest():
                return self._evaluate(request, data, state), state

    def train_together(
        self, requests: Sequence[TrainRequest], states: Sequence[ClientState]
    ) -> list[tuple[Reply, ClientState]]:
        """Answer requests of clients with one architecture and one batch size, trained in lockstep.

        Args:
            requests: one for each client; all have images.
            states: of these clients.
        """
        data = [self._data.client(request.client) for request in requests]
        jobs = [self._prepare(*each) for each in zip(requests, data, states, strict=True)]
        images, first = self._data.training_images(self._phases.device), requests[0]
        task = StackedClassificationTask(
            [job.net for job in jobs],
            [job.loss for job in jobs],
            self._optimizer,
            first.learning_rate,
            [to_pixels] if self._data.augmentation.does_nothing else [job.view for job in jobs],
            [job.batches.steps for job in jobs],
            self._program.objective.same_for_all,
        )
        curves = self._phases.run(
            task,
            StackedBatches(images.pixels, images.labels, [job.batches for job in jobs]),
            seed_for(self._seed, first.round, first.client, "train"),
        )
        answers = []
        for k, (request, own, state, job) in enumerate(zip(requests, data, states, jobs, strict=True)):
            losses = curves["loss"][: job.batches.steps, k]
            answers.append(self._trained(request, own, state, job, task.trained(k), losses))
        return answers

    def stack_key(self, request: TrainRequest) -> tuple[object, ...]:
        """Return what must be equal for clients to train in lockstep."""
        images = len(self._data.client(request.client).train)
        return self._pool.of(request.client), min(images, self._data.batch_size), request.learning_rate, images > 0

    def steps(self, request: TrainRequest) -> int:
        """Return the number of steps that a request takes."""
        images = max(1, len(self._data.client(request.client).train))
        return steps_for(request.steps, request.epochs, images, self._data.batch_size)

    def _train(self, request: TrainRequest, data: ClientData, state: ClientState) -> tuple[Reply, ClientState]:
        if len(data.train) == 0:
            return Declined(request.client, "it holds no images to train on"), state
        job = self._prepare(request, data, state)
        task = ClassificationTask(job.net, job.loss, self._optimizer, request.learning_rate, job.view)
        seed = seed_for(self._seed, request.round, request.client, "train")
        curves = self._phases.run(task, job.batches, seed)
        return self._trained(request, data, state, job, job.net.state_dict(), curves["loss"])

    def _prepare(self, request: TrainRequest, data: ClientData, state: ClientState) -> "_Training":
        blueprint = self._pool.of(request.client)
        start = self._own.join(request.client, request.model, state)
        net = blueprint.build(start)
        judgement = self._judge(net, data) if request.judge else {}
        loss = self._program.objective.bind(LocalContext(start, data.class_counts, blueprint))
        random = generator_for(self._seed, request.round, request.client, f"augment/{self._phases.rank}")
        batches = self._batches(request, "train", data, self._data.batch_size, self.steps(request))
        return _Training(
            net, loss, lambda images: to_pixels(self._data.augmentation(images, random)), batches, judgement
        )

    def _trained(
        self,
        request: TrainRequest,
        data: ClientData,
        state: ClientState,
        job: "_Training",
        model: StateDict,
        losses: Tensor,
    ) -> tuple[Reply, ClientState]:
        judgement, told = job.judgement, {"steps": len(losses), "validation_images": len(data.validation)}
        metrics = {"loss": float(losses.mean()), **told}
        if not are_finite(model.values()):
            return Declined(request.client, "its model diverged to values that are not finite: lower the rate"), state
        shared, personal = self._own.split(request.client, model)
        kept = ClientState(model) if request.keep else personal
        reply = TrainReply(request.client, shared if request.upload else {}, data.class_counts, metrics, judgement)
        return reply, kept if kept.tensors else state

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
        return EvaluateReply(request.client, **self._judge(net, data))

    def _judge(self, net: Classifier, data: ClientData) -> dict[str, Tensor]:
        """Evaluate a model on the client's validation images, in the form of :class:`EvaluateReply`."""
        classes = self._pool.blueprint.num_classes
        own = self._phases.dry_run.images(data.validation)
        labels = data.images.labels[own]
        if len(labels) == 0:
            nothing = torch.zeros(classes, dtype=torch.long)
            return {"correct": nothing, "total": nothing, "loss": nothing.double()}
        logits = predict(net, data.images.pixels[own], self._phases.device)
        correct = labels[logits.argmax(-1) == labels]
        losses = cross_entropy(logits, labels, reduction="none").double().nan_to_num(nan=torch.inf, posinf=torch.inf)
        loss = torch.zeros(classes, dtype=torch.double).index_add_(0, labels, losses)
        correct, total = (found.bincount(minlength=classes) for found in (correct, labels))
        return {"correct": correct, "total": total, "loss": loss}

    def _run(
        self,
        request: TrainRequest | GeneratorRequest,
        phase: str,
        task: Task,
        data: ClientData,
        batch_size: int,
        steps: int,
    ) -> dict[str, Tensor]:
        batches = self._batches(request, phase, data, batch_size, steps)
        return self._phases.run(task, batches, seed_for(self._seed, request.round, request.client, phase))

    def _batches(
        self, request: TrainRequest | GeneratorRequest, phase: str, data: ClientData, batch_size: int, steps: int
    ) -> ShuffledBatches:
        images = self._data.training_images(self._phases.device)
        return ShuffledBatches(
            images.pixels,
            images.labels,
            batch_size=self._phases.dry_run.batch(batch_size),
            steps=self._phases.dry_run.steps(steps),
            seed=seed_for(self._seed, request.round, request.client, f"{phase}/batches"),
            indices=data.train,
        )


class _Training(NamedTuple):
    """What one client's local training needs."""

    net: Classifier
    loss: LocalLoss
    view: View
    batches: ShuffledBatches
    judgement: StateDict


def _of(class_counts: Tensor, data: ClientData, indices: Tensor) -> Tensor:
    """Return the indices whose images are of a counted class."""
    return indices[class_counts[data.images.labels[indices]] > 0]
