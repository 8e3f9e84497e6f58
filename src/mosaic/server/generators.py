"""The clients' generators as one source of images that no client ever had."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from mosaic.errors import MosaicError, printable
from mosaic.generation.base import Generation
from mosaic.messages import GeneratorReply, StateDict
from mosaic.nets.classifier import ImageShape
from mosaic.nets.image_generator import ImageGenerator
from mosaic.server.cohort import Cohort
from mosaic.server.context import RoundContext
from mosaic.server.shown import SHOWN_IMAGES, shown_labels
from mosaic.server.state import ServerState
from mosaic.transfer import send

log = logging.getLogger(__name__)
_AT_A_TIME = 512
"""Images that are made at a time."""


class GeneratedImages(NamedTuple):
    """Images and where they come from.

    Attributes:
        images: pixels in ``[0, 1]``, shape ``(B, channels, H, W)``.
        owners: which generator made each image, shape ``(B,)``.
        labels: which class was drawn from the owner's counts, shape ``(B,)``; only a conditional generator uses it.
    """

    images: Tensor
    owners: Tensor
    labels: Tensor


class GeneratorMixture:
    """Uploaded generators as one source of images.

    Attributes:
        clients: who owns each generator.
        conditional: whether generators make images of the labels that are drawn.
        class_counts: images per class that each generator has learnt from, shape ``(N, C)``.

    Args:
        uploads: the clients' generators, at least one.
        build: makes the network of an upload, each time when it is to draw, so that they are never held all at once.
        device: where images are made; each generator is there only while it is at work.
        balance: gamma; client i is drawn in proportion to ``n[i]^gamma``. 0 draws all clients alike.
    """

    def __init__(
        self,
        uploads: Sequence[GeneratorReply],
        build: Callable[[GeneratorReply], ImageGenerator],
        device: torch.device,
        balance: float = 0.5,
    ) -> None:
        if not uploads:
            raise ValueError("GeneratorMixture needs at least one generator, got none")
        self._uploads, self._build, self._device, self._balance = uploads, build, device, balance
        self.class_counts = torch.stack([upload.class_counts for upload in uploads])
        self.clients = [upload.client for upload in uploads]
        self.conditional = build(uploads[0]).conditional

    @torch.no_grad()
    def draw(self, count: int, random: torch.Generator) -> GeneratedImages:
        """Draw images.

        Args:
            count: how many.
            random: CPU generator of owners, labels and noise, so that the device does not matter.

        Returns:
            ``count`` images on the mixture's device, sorted by owner; owners and labels beside them.
        """
        sizes = self.class_counts.sum(1).double()
        owners = torch.multinomial(sizes**self._balance, count, replacement=True, generator=random).sort().values
        labels = torch.multinomial(self.class_counts.double()[owners], 1, generator=random).squeeze(1)
        parts = [self._make(owner, labels[owners == owner], random) for owner in owners.unique().tolist()]
        return GeneratedImages(torch.cat(parts), owners.to(self._device), labels.to(self._device))

    @torch.no_grad()
    def draw_from(self, row: int, wanted: int | Tensor, random: torch.Generator) -> GeneratedImages:
        """Draw images of one generator.

        Args:
            row: which generator.
            wanted: labels of the images, shape ``(B,)``, or how many, with labels as its owner holds them.
            random: CPU generator of labels and noise.

        Returns:
            Images on the mixture's device, sorted by label.
        """
        if isinstance(wanted, int):
            shares = self.class_counts[row].double()
            wanted = torch.multinomial(shares, wanted, replacement=True, generator=random)
        labels = wanted.sort().values
        return GeneratedImages(self._make(row, labels, random), torch.full_like(labels, row), labels)

    def _make(self, row: int, labels: Tensor, random: torch.Generator) -> Tensor:
        """Return an image for every label, of one generator."""
        generator = send(self._build(self._uploads[row]), self._device).eval()
        images: list[Tensor] = []
        for wanted in labels.split(_AT_A_TIME):
            noise = torch.randn(len(wanted), generator.latent_dim, generator=random)
            images.append(generator(send(noise, self._device), send(wanted, self._device)))
        return torch.cat(images)


def uploaded_generator(upload: GeneratorReply, generation: Generation, image_shape: ImageShape) -> ImageGenerator:
    """Return a new network with the weights of an upload, which was learnt by this kind of generation."""
    with torch.random.fork_rng(devices=[]):
        generator = generation.build(image_shape, upload.class_counts)
    generator.load_state_dict(upload.generator)
    return generator


def check_blank_generator(generation: Generation, image_shape: ImageShape, num_classes: int) -> None:
    """Refuse, before anybody trains, a kind of generation whose blank generators fail or make other images.

    One that nobody has fitted need not draw: a Gaussian without variance, say, has no Cholesky factor.

    Raises:
        MosaicError: building one fails, or asking it for two images, or these have another shape.
    """
    build = f"algorithm.generation: expected {type(generation).__name__}.build to return a generator of images"
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            counts = torch.full((num_classes,), max(1, generation.min_count))
            blank = generation.build(image_shape, counts).eval()
            made = tuple(blank(torch.randn(2, blank.latent_dim), torch.arange(2) % num_classes).shape)
    except MosaicError:
        raise
    except (torch.linalg.LinAlgError, ValueError):  # type: ignore[attr-defined]
        return
    except Exception as error:
        raise MosaicError(f"{build}, got one that fails: {type(error).__name__}: {printable(str(error))}") from error
    if made != (2, *image_shape):
        raise MosaicError(f"{build} of shape {(2, *image_shape)} for two labels, got shape {made}")


def collect_generators(
    state: ServerState, clients: Sequence[int], generation: Generation, cohort: Cohort, context: RoundContext
) -> ServerState:
    """Ask these clients for their generators, show how good each is, and keep them in client order."""

    def agreed(class_counts: Tensor) -> StateDict:
        with torch.device("meta"):
            blank = generation.build(context.blueprint.image_shape, class_counts)
        return blank.state_dict()

    fresh = cohort.generators(clients, agreed, {reply.client for reply in state.generators})
    for reply in fresh:
        name, metrics = f"generator/{reply.client:02d}", reply.metrics
        context.recorder.curves(name, reply.curves)
        if metrics["attempts"] > 1:
            log.warning(
                "round %d: the generator of client %d diverged and was trained once more at a lower rate",
                context.plan.round,
                reply.client,
            )
        for figure in ("coverage", "nearest_neighbour_ratio"):
            if figure in metrics:
                context.recorder.scalar(f"{name}/{figure}", metrics[figure])
    learnt = (replace(reply, curves={}) for reply in fresh)  # TensorBoard has them
    generators = sorted([*state.generators, *learnt], key=lambda reply: reply.client)
    return replace(state, generators=tuple(generators))


def show_samples(images: GeneratorMixture, context: RoundContext) -> None:
    """Show samples of every generator, one after another, so that they are never held all at once."""
    random, count = context.generator_for("samples"), context.phases.dry_run.batch(SHOWN_IMAGES)
    for row, client in enumerate(images.clients):
        drawn = images.draw_from(row, shown_labels(images.class_counts[row], count), random)
        labels = drawn.labels if images.conditional else None
        context.recorder.images(f"generator/{client:02d}/samples", drawn.images, labels, client)
