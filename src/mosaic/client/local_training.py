"""Train clients' models: one by itself, or several in lockstep."""

import logging
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mosaic.batches import JoinedBatches, ShuffledBatches, StackedBatches, steps_for
from mosaic.client.objectives import LocalContext, LocalObjective
from mosaic.client.own_models import OwnModels
from mosaic.client.replay import LABELS, PIXELS, ReplaySettings, seen_counts
from mosaic.data.module import ClientData, FederatedDataModule
from mosaic.finite import are_plausible
from mosaic.messages import (
    ClientState,
    Declined,
    GeneratorRequest,
    Reply,
    StateDict,
    TrainReply,
    TrainRequest,
)
from mosaic.model_pool import ModelPool
from mosaic.nets.blueprint import Blueprint
from mosaic.nets.classifier import Classifier
from mosaic.nets.inference import guesses, predict, to_pixels
from mosaic.seeding import generator_for, seed_for
from mosaic.tasks.classification import ClassificationTask, LocalLoss, OptimizerFactory, View
from mosaic.tasks.stacked_classification import StackedClassificationTask, takes_numbers_singly
from mosaic.training.phases import PhaseRunner
from mosaic.transfer import send

log = logging.getLogger(__name__)


class Preparation(NamedTuple):
    """What one client's local training needs."""

    net: Classifier
    loss: LocalLoss
    view: View
    batches: ShuffledBatches
    replayed: ShuffledBatches | None
    judgement: StateDict


class LocalTraining:
    """Answers requests to train.

    Args:
        data: the federation's data.
        pool: the model of each client.
        own: splits models into shared and personal tensors.
        optimizer: makes the optimiser.
        objective: what clients minimise.
        replay: how much of it are images drawn from all clients' generators.
        phases: runs training phases.
        seed: the run's seed.
    """

    def __init__(
        self,
        data: FederatedDataModule,
        pool: ModelPool,
        own: OwnModels,
        optimizer: OptimizerFactory,
        objective: LocalObjective,
        replay: ReplaySettings,
        phases: PhaseRunner,
        seed: int,
    ) -> None:
        self._data, self._pool, self._own = data, pool, own
        self._optimizer, self._objective, self._replay = optimizer, objective, replay
        self._phases, self._seed = phases, seed
        self._stacks: dict[Blueprint, bool] = {}

    def alone(self, request: TrainRequest, data: ClientData, state: ClientState) -> tuple[Reply, ClientState]:
        """Answer a request by training the client's model by itself, and return the client's new state too."""
        if len(data.train) == 0:
            return Declined(request.client, "it holds no images to train on"), state
        job = self._prepare(request, data, state)
        task = ClassificationTask(job.net, job.loss, self._optimizer, request.learning_rate, job.view)
        seed = seed_for(self._seed, request.round, request.client, "train")
        batches = JoinedBatches([job.batches, job.replayed]) if job.replayed else job.batches
        curves = self._phases.run(task, batches, seed)
        return self._trained(request, data, state, job, job.net.state_dict(), curves["loss"])

    def together(
        self, requests: Sequence[TrainRequest], states: Sequence[ClientState]
    ) -> list[tuple[Reply, ClientState]]:
        """Answer requests of clients with one :meth:`stack_key`, who all have images, trained in lockstep."""
        data = [self._data.client(request.client) for request in requests]
        jobs = [self._prepare(*each) for each in zip(requests, data, states, strict=True)]
        images, first = self._data.training_images(self._phases.device), requests[0]
        task = StackedClassificationTask(
            [send(job.net, self._phases.device) for job in jobs],
            [job.loss for job in jobs],
            self._optimizer,
            first.learning_rate,
            [to_pixels] if self._data.augmentation.does_nothing else [job.view for job in jobs],
            [job.batches.steps for job in jobs],
            self._objective.same_for_all,
        )
        stack = StackedBatches(images.pixels, images.labels, [job.batches for job in jobs])
        replayed = [job.replayed for job in jobs if job.replayed]  # all or none, as stack_key has it
        batches = JoinedBatches([stack, StackedBatches(*self._sent(first), replayed)], dim=1) if replayed else stack
        curves = self._phases.run(task, batches, seed_for(self._seed, first.round, first.client, "train"))
        answers = []
        for k, (request, own, state, job) in enumerate(zip(requests, data, states, jobs, strict=True)):
            losses = curves["loss"][: job.batches.steps, k]
            answers.append(self._trained(request, own, state, job, task.trained(k), losses))
        return answers

    def stack_key(self, request: TrainRequest) -> Hashable | None:
        """Return what must be equal for clients to train in lockstep; nothing where one has no images."""
        images = len(self._data.client(request.client).train)
        if images == 0 or not self._can_stack(self._pool.of(request.client)):
            return None
        sent = request.replay[PIXELS].data_ptr() if request.replay else None
        return self._pool.of(request.client), min(images, self._data.batch_size), request.learning_rate, sent

    def _can_stack(self, blueprint: Blueprint) -> bool:
        """Whether the optimiser moves networks in a stack as it moves each alone; warn once if it does not."""
        if blueprint not in self._stacks:
            net = blueprint.build(blueprint.initial(seed=0))
            singly = takes_numbers_singly(self._optimizer, [each.shape for each in net.parameters()])
            if not singly and all(self._stacks.values()):
                log.warning("clients train one after another, since model.optimizer looks at whole tensors")
            self._stacks[blueprint] = singly
        return self._stacks[blueprint]

    def steps(self, request: TrainRequest) -> int:
        """Return the number of steps that a request to a client with images takes."""
        images = len(self._data.client(request.client).train)
        return steps_for(request.steps, request.epochs, images, self._data.batch_size)

    def _prepare(self, request: TrainRequest, data: ClientData, state: ClientState) -> Preparation:
        blueprint = self._pool.of(request.client)
        start = self._own.join(request.client, request.model, state)
        net = blueprint.build(start)
        judgement = self.judge(net, data) if request.judge else {}
        random = generator_for(self._seed, request.round, request.client, f"augment/{self._phases.rank}")
        size = min(self._phases.dry_run.batch(self._data.batch_size), len(data.train))
        others = self._replay.of_batch(size) if request.replay else 0
        batches = self.batches(request, "train", data, size - others, self.steps(request))
        replayed, seen = None, data.class_counts
        if others:
            replayed = self._replayed(request, others, batches.steps)
            seen = seen_counts(data.class_counts, request.replay[LABELS], others / size)
        loss = self._objective.bind(LocalContext(start, seen, blueprint))
        return Preparation(
            net, loss, lambda images: to_pixels(self._data.augmentation(images, random)), batches, replayed, judgement
        )

    def _replayed(self, request: TrainRequest, batch_size: int, steps: int) -> ShuffledBatches:
        """Return batches of what the server has drawn, a part of each batch beside the client's own images."""
        seed = seed_for(self._seed, request.round, request.client, "replay/batches")
        return ShuffledBatches(*self._sent(request), batch_size=batch_size, steps=steps, seed=seed, least=1)

    def _sent(self, request: TrainRequest) -> tuple[Tensor, Tensor]:
        """Return the pixels and labels that the server has sent, where the client's own images are."""
        device = self._data.training_images(self._phases.device).pixels.device
        return send(request.replay[PIXELS], device), send(request.replay[LABELS], device)

    def _trained(
        self,
        request: TrainRequest,
        data: ClientData,
        state: ClientState,
        job: Preparation,
        model: StateDict,
        losses: Tensor,
    ) -> tuple[Reply, ClientState]:
        judgement, told = job.judgement, {"steps": len(losses), "validation_images": len(data.validation)}
        finite = losses.isfinite()
        losses = losses if finite.all() else losses[finite]  # a gradient scaler has skipped the other steps
        metrics = {"loss": float(losses.mean()), **told}
        if not are_plausible(model.values(), request.model.values()):
            reason = "its model diverged to values that are huge or not finite: lower the rate"
            return Declined(request.client, reason), state
        shared, personal = self._own.split(request.client, model)
        kept = ClientState(model) if request.keep else personal
        reply = TrainReply(request.client, shared if request.upload else {}, data.class_counts, metrics, judgement)
        return reply, kept

    def judge(self, net: Classifier, data: ClientData) -> dict[str, Tensor]:
        """Evaluate a model on the client's validation images, in the form of :class:`EvaluateReply`."""
        classes = self._pool.blueprint.num_classes
        own = self._phases.dry_run.images(data.validation)
        labels = data.images.labels[own]
        if len(labels) == 0:
            nothing = torch.zeros(classes, dtype=torch.long)
            return {"correct": nothing, "total": nothing, "loss": nothing.double()}
        logits = predict(net, data.images.pixels[own], self._phases.device)
        correct = labels[guesses(logits) == labels]
        losses = cross_entropy(logits, labels, reduction="none").double().nan_to_num(nan=torch.inf, posinf=torch.inf)
        loss = torch.zeros(classes, dtype=torch.double).index_add_(0, labels, losses)
        correct, total = (found.bincount(minlength=classes) for found in (correct, labels))
        return {"correct": correct, "total": total, "loss": loss}

    def batches(
        self, request: TrainRequest | GeneratorRequest, phase: str, data: ClientData, batch_size: int, steps: int
    ) -> ShuffledBatches:
        """Return batches of a client's images for a phase."""
        images = self._data.training_images(self._phases.device)
        return ShuffledBatches(
            images.pixels,
            images.labels,
            batch_size=self._phases.dry_run.batch(batch_size),
            steps=self._phases.dry_run.steps(steps),
            seed=seed_for(self._seed, request.round, request.client, f"{phase}/batches"),
            indices=data.train,
        )
