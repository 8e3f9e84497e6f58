"""Learn generators of clients' images: one by itself, or several in lockstep."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from mosaic.batches import ShuffledBatches, StackedBatches, steps_for
from mosaic.client.generator_quality import measure_generator, require_images
from mosaic.client.local_training import LocalTraining
from mosaic.client.program import ClientProgram
from mosaic.data.module import ClientData, FederatedDataModule
from mosaic.errors import MosaicError, kind_of
from mosaic.generation.base import Fitted, NoGeneratorError, OwnImages
from mosaic.losses.priors import label_prior
from mosaic.messages import ClientState, Declined, GeneratorReply, GeneratorRequest, Reply
from mosaic.model_pool import ModelPool
from mosaic.nets.classifier import Classifier
from mosaic.nets.inference import to_pixels
from mosaic.seeding import seed_for
from mosaic.training.phases import PhaseRunner
from mosaic.training.task import Task

QUALITY_IMAGES = 512
"""Generated images to compare with a client's own."""


class GeneratorLearning:
    """Answers requests for generators.

    Args:
        data: the federation's data.
        pool: the model of each client.
        program: says how generators are learnt, and what is reported about them.
        training: draws the batches of a client.
        phases: runs training phases.
        seed: the run's seed.
    """

    def __init__(
        self,
        data: FederatedDataModule,
        pool: ModelPool,
        program: ClientProgram,
        training: LocalTraining,
        phases: PhaseRunner,
        seed: int,
    ) -> None:
        self._data, self._pool, self._program = data, pool, program
        self._training, self._phases, self._seed = training, phases, seed

    def alone(self, request: GeneratorRequest, data: ClientData, state: ClientState) -> tuple[Reply, ClientState]:
        """Answer a request, and return the client's new state too."""
        return self._answer(request, self._learnt(data), state), self._left(request, state)

    def together(
        self, requests: Sequence[GeneratorRequest], states: Sequence[ClientState]
    ) -> Iterator[tuple[Reply, ClientState]]:
        """Answer requests of clients with one :meth:`stack_key`, whose generators are trained in lockstep."""
        own = [self._learnt(self._data.client(request.client)) for request in requests]
        there = [place for place, state in enumerate(states) if state.tensors]
        guides = {place: self._guide(requests[place], states[place]) for place in there}
        images = [self._own_images(requests[place], guides[place], own[place]) for place in there]

        def train(task: Task, batch_size: int, steps: int) -> dict[str, Tensor]:
            members = [self._batches(requests[place], own[place], batch_size, steps) for place in there]
            pool, first = self._data.training_images(self._phases.device), requests[there[0]]
            batches = StackedBatches(pool.pixels, pool.labels, members)
            return self._phases.run(task, batches, seed_for(self._seed, first.round, first.client, "generator"))

        found = self._program.generation.fit_together(images, train) if there else []
        fitted = dict(zip(there, found, strict=True))
        for place, (request, state) in enumerate(zip(requests, states, strict=True)):
            if (each := fitted.get(place)) is not None:
                reply: Reply = self._upload(request, each, guides[place], own[place])
            else:
                reply = self._answer(request, own[place], state)
            yield reply, self._left(request, state)

    def stack_key(self, request: GeneratorRequest) -> Hashable | None:
        """Return what must be equal for clients to learn in lockstep; nothing where this one has to learn alone."""
        images = int(self._counts(self._data.client(request.client)).sum())
        key = self._program.generation.stack_key(images) if images else None
        return None if key is None else (self._pool.of(request.client), key)

    def _answer(self, request: GeneratorRequest, own: ClientData, state: ClientState) -> Reply:
        if not state.tensors:
            return Declined(request.client, "it has kept no trained model to guide a generator")
        generation = self._program.generation
        if own.class_counts.sum() == 0:
            return Declined(
                request.client, f"it has no class with {generation.min_count} images to learn a generator of"
            )
        guide = self._guide(request, state)
        try:
            fitted = generation.fit(self._own_images(request, guide, own))
        except NoGeneratorError as error:
            return Declined(request.client, str(error))
        if not isinstance(fitted, Fitted):
            name = type(generation).__name__
            raise MosaicError(
                f"algorithm.generation: expected {name}.fit to return mosaic.generation.Fitted, got {kind_of(fitted)}"
            )
        return self._upload(request, fitted, guide, own)

    def _upload(self, request: GeneratorRequest, fitted: Fitted, guide: Classifier, own: ClientData) -> GeneratorReply:
        cost = {"attempts": fitted.attempts, "steps": fitted.steps, "discriminator_steps": fitted.discriminator_steps}
        curves, quality = {}, {}
        require_images(fitted.generator, own.images.shape, own.class_counts, self._phases.device)
        if self._program.share_curves:
            curves, quality = fitted.curves, self._measure(request, fitted, guide, own)
        told = {**cost, **quality}
        return GeneratorReply(request.client, fitted.generator.state_dict(), own.class_counts, told, curves)

    def _counts(self, data: ClientData) -> Tensor:
        """Return the client's images per class, of classes with enough of them."""
        return torch.where(data.class_counts >= self._program.generation.min_count, data.class_counts, 0)

    def _learnt(self, data: ClientData) -> ClientData:
        """Return the images from which a generator learns."""
        counts = self._counts(data)
        return replace(data, train=_of(counts, data, data.train), class_counts=counts)

    def _guide(self, request: GeneratorRequest, state: ClientState) -> Classifier:
        """Return the model that the client has kept."""
        return self._pool.of(request.client).build(state.tensors)

    def _left(self, request: GeneratorRequest, state: ClientState) -> ClientState:
        """Return what a client keeps after its generator."""
        return state if self._pool.keeps_own(request.client) else ClientState({})

    def _own_images(self, request: GeneratorRequest, guide: Classifier, own: ClientData) -> OwnImages:
        """Return the client's images and the means to train a generator on them."""

        def train(task: Task, batch_size: int, steps: int, epochs: float) -> dict[str, Tensor]:
            batches = self._batches(request, own, batch_size, steps_for(steps, epochs, len(own.train), batch_size))
            return self._phases.run(task, batches, seed_for(self._seed, request.round, request.client, "generator"))

        return OwnImages(
            pixels=lambda: to_pixels(own.images.pixels[own.train]),
            labels=own.images.labels[own.train],
            class_counts=own.class_counts,
            prior=label_prior(own.class_counts, self._program.prior_epsilon),
            guide=guide,
            train=train,
            seed=partial(seed_for, self._seed, request.round, request.client),
        )

    def _batches(self, request: GeneratorRequest, own: ClientData, batch_size: int, steps: int) -> ShuffledBatches:
        return self._training.batches(request, "generator", own, batch_size, steps)

    def _measure(
        self, request: GeneratorRequest, fitted: Fitted, guide: Classifier, own: ClientData
    ) -> dict[str, float]:
        pixels, held_out = own.images.pixels, _of(own.class_counts, own, own.validation)
        seed = seed_for(self._seed, request.round, request.client, "generator/quality")
        settings = self._phases.device, seed, self._phases.dry_run.batch(QUALITY_IMAGES)
        return measure_generator(
            fitted.generator, guide, pixels[own.train], own.class_counts, pixels[held_out], *settings
        )


def _of(class_counts: Tensor, data: ClientData, indices: Tensor) -> Tensor:
    """Return the indices whose images are of a counted class."""
    return indices[class_counts[data.images.labels[indices]] > 0]
