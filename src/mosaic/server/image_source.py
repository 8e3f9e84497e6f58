"""Images that no client ever had: a mixture of the clients' generators, and a pool that the teacher has judged."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mosaic.batches import own_share
from mosaic.generation.base import Generation
from mosaic.messages import GeneratorReply
from mosaic.nets.image_generator import ImageGenerator
from mosaic.tasks.distillation import TaughtImages
from mosaic.transfer import bring, send

ABSENT = -30.0
"""Logit of a class that is ruled out: far below any other, yet finite, so that no divergence becomes infinite."""


class GeneratedImages(NamedTuple):
    """Images and where they come from.

    Attributes:
        images: pixels in ``[0, 1]``, shape ``(B, channels, H, W)``.
        owners: which generator made each image, shape ``(B,)``.
        labels: which class was drawn from the owner's counts, shape ``(B,)``; only a conditional generator heeds it.
    """

    images: Tensor
    owners: Tensor
    labels: Tensor


class GeneratorMixture:
    """Uploaded generators as one source of images.

    Attributes:
        clients: who owns each generator.
        conditional: whether generators heed the labels that are drawn for them.
        class_counts: images per class that each generator has learnt from, shape ``(N, C)``.

    Args:
        uploads: the clients' generators, at least one.
        generators: the networks with the uploaded weights, aligned with ``uploads``.
        device: where images are made; each generator is there only while it is at work.
        balance: gamma; client i is drawn in proportion to ``n[i]^gamma``. 0 draws all clients alike.
    """

    def __init__(
        self,
        uploads: Sequence[GeneratorReply],
        generators: Sequence[ImageGenerator],
        device: torch.device,
        balance: float = 0.5,
    ) -> None:
        if not uploads:
            raise ValueError("GeneratorMixture needs at least one generator, got none")
        self.class_counts = torch.stack([upload.class_counts for upload in uploads])
        self.clients = [upload.client for upload in uploads]
        self.conditional = generators[0].conditional
        self._generators = generators
        self._device = device
        self._balance = balance

    @torch.no_grad()
    def draw(self, count: int, random: torch.Generator, chunk: int = 512) -> GeneratedImages:
        """Draw images.

        Args:
            count: how many.
            random: CPU generator of owners, labels and noise, so that the device does not matter.
            chunk: images made at a time.

        Returns:
            ``count`` images on the mixture's device, sorted by owner; owners and labels beside them.
        """
        sizes = self.class_counts.sum(1).double()
        owners = torch.multinomial(sizes**self._balance, count, replacement=True, generator=random).sort().values
        labels = torch.multinomial(self.class_counts.double()[owners], 1, generator=random).squeeze(1)
        parts = [self._make(owner, labels[owners == owner], random, chunk) for owner in owners.unique().tolist()]
        return GeneratedImages(torch.cat(parts), owners.to(self._device), labels.to(self._device))

    @torch.no_grad()
    def draw_from(self, row: int, count: int, random: torch.Generator) -> Tensor:
        """Draw images of one generator, with labels as its owner holds them.

        Args:
            row: which generator.
            count: how many.
            random: CPU generator of labels and noise.

        Returns:
            Pixels, shape ``(count, channels, H, W)``.
        """
        labels = torch.multinomial(self.class_counts[row].double(), count, replacement=True, generator=random)
        return self._make(row, labels, random, chunk=count)

    def _make(self, row: int, labels: Tensor, random: torch.Generator, chunk: int) -> Tensor:
        """Return an image for every label, of one generator."""
        generator = send(self._generators[row], self._device).eval()
        images: list[Tensor] = []
        for wanted in labels.split(chunk):
            noise = torch.randn(len(wanted), generator.latent_dim, generator=random)
            images.append(generator(send(noise, self._device), send(wanted, self._device)))
        return torch.cat(images)


class UploadedGenerators(Sequence[ImageGenerator]):
    """The networks of uploaded generators, each built when it is asked for: a thousand of them are never held at once.

    Args:
        uploads: the clients' generators.
        generation: how they were learnt.
        image_shape: channels, height, width.
    """

    def __init__(
        self,
        uploads: Sequence[GeneratorReply],
        generation: Generation,
        image_shape: tuple[int, int, int],
    ) -> None:
        self._uploads, self._generation, self._image_shape = uploads, generation, image_shape

    def __len__(self) -> int:
        return len(self._uploads)

    def __getitem__(self, row: Any) -> Any:
        """Return a new network with the weights of the upload in this row, or a list of them for a slice."""
        if isinstance(row, slice):
            return [self[index] for index in range(*row.indices(len(self)))]
        upload = self._uploads[row]
        with torch.random.fork_rng(devices=[]):
            generator = self._generation.build(self._image_shape, upload.class_counts)
        generator.load_state_dict(upload.generator)
        return generator


def origin_log_prior(source: GeneratedImages, class_counts: Tensor, conditional: bool, epsilon: float) -> Tensor:
    """Say what an image's origin tells of its class, before anyone has looked at it (METHOD section 6).

    Args:
        source: generated images with owner and drawn label.
        class_counts: of the generators' owners, shape ``(N, C)``.
        conditional: whether generators heed labels; the drawn label then replaces the owner's shares.
        epsilon: added to every share, so that no class is ruled out.

    Returns:
        ``log(share + epsilon)``, shape ``(B, C)``.
    """
    if conditional:
        shares = torch.nn.functional.one_hot(source.labels, class_counts.shape[1]).float()
    else:
        of_owner = class_counts / class_counts.sum(1, keepdim=True)
        shares = of_owner.to(source.images.device)[source.owners]
    return (shares + epsilon).log()


class TaughtPool:
    """Generated images with the teacher's logits, computed once and drawn from many times.

    Args:
        source: the images and their owners.
        teacher_logits: shape ``(M, C)``.
        balanced: whether images are drawn so that all pseudo-labels come equally often.
        min_confidence: images whose most likely class has a smaller probability are never drawn, unless that would
            leave none.
    """

    def __init__(
        self, source: GeneratedImages, teacher_logits: Tensor, balanced: bool, min_confidence: float = 0.0
    ) -> None:
        self.images, self.teacher_logits = source.images, teacher_logits
        confidence, pseudo_labels = (part.cpu() for part in teacher_logits.softmax(-1).max(-1))
        sure = confidence >= min_confidence
        self.kept = sure if sure.any() else torch.ones_like(sure)
        counts = torch.bincount(pseudo_labels[self.kept], minlength=teacher_logits.shape[1]).double()
        weights = 1 / counts[pseudo_labels].clamp(min=1) if balanced else torch.ones(len(source.images)).double()
        self.weights = weights * self.kept


class TaughtBatches:
    """Random batches, drawn with replacement from one pool after another; every rank takes its share of each.

    Args:
        pool: the first pool.
        batch_size: of the global batch.
        steps: batches over all pools.
        seed: of the drawing.
        later: make the pools that follow when their turn comes, each for an equal part of the steps; beside the first
            pool only the present one is held.
    """

    def __init__(
        self,
        pool: TaughtPool,
        batch_size: int,
        steps: int,
        seed: int,
        later: Sequence[Callable[[], TaughtPool]] = (),
    ) -> None:
        self._pool, self._later = pool, later
        self._batch_size, self._steps, self._seed = batch_size, steps, seed

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[TaughtImages]:
        random = torch.Generator().manual_seed(self._seed)
        makers = [lambda: self._pool, *self._later]
        turns = torch.arange(self._steps).tensor_split(len(makers))
        for make, turn in zip(makers, turns, strict=True):
            with torch.autocast(self._pool.images.device.type, enabled=False):  # this may run inside a training step
                pool = make() if len(turn) else self._pool
            for _ in turn:
                batch = torch.multinomial(pool.weights, self._batch_size, replacement=True, generator=random)
                mine = send(own_share(batch), pool.images.device)
                yield TaughtImages(pool.images[mine], pool.teacher_logits[mine])


def ask_teacher(teacher: nn.Module, images: Tensor, chunk: int = 512) -> Tensor:
    """Return the teacher's answers to pixels ``(M, channels, H, W)``, in chunks, on their device."""
    bring(teacher, images.device).eval()
    with torch.inference_mode():
        answers = [teacher(batch) for batch in images.split(chunk)]
    return torch.cat(answers)  # out here it gives tensors that a loss may use


@torch.no_grad()
def ask_owners(models: Mapping[int, nn.Module], source: GeneratedImages, class_counts: Tensor) -> Tensor:
    """Let each image be judged by the model of the client whose generator made it, among that client's classes.

    Args:
        models: classifier of every owner, by its place among the generators.
        source: generated images with their owners.
        class_counts: of the owners, shape ``(N, C)``.

    Returns:
        Log-probabilities ``(M, C)`` on the images' device; classes that the owner does not hold are negligible.
    """
    logits = torch.empty(len(source.images), class_counts.shape[1], device=source.images.device)
    for owner in source.owners.unique().tolist():
        own = source.owners == owner
        logits[own] = ask_teacher(models[owner], source.images[own])
    absent = (class_counts == 0).to(logits.device)[source.owners]
    return logits.masked_fill(absent, -torch.inf).log_softmax(-1).clamp(min=ABSENT)
