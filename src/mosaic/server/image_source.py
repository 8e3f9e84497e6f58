"""Images that no client ever had: a mixture of the clients' generators, and a pool that the teacher has judged."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mosaic.batches import own_share
from mosaic.messages import GeneratorReply
from mosaic.nets.dcgan import Generator
from mosaic.tasks.distillation import TaughtImages
from mosaic.tasks.generation import GenerationSettings


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
    """All uploaded generators as one source of images.

    Args:
        uploads: the clients' generators, at least one.
        generators: the networks with the uploaded weights, aligned with ``uploads``; moved to ``device``, frozen.
        device: where images are made.
        balance: gamma; client i is drawn in proportion to ``n[i]^gamma``. 0 draws all clients alike.
    """

    def __init__(
        self,
        uploads: Sequence[GeneratorReply],
        generators: Sequence[Generator],
        device: torch.device,
        balance: float = 0.5,
    ) -> None:
        if not uploads:
            raise ValueError("GeneratorMixture needs at least one generator, got none")
        self.class_counts = torch.stack([upload.class_counts for upload in uploads])
        self._generators = [generator.to(device).eval().requires_grad_(False) for generator in generators]
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
        images: list[Tensor] = []
        for owner, generator in enumerate(self._generators):
            for wanted in labels[owners == owner].split(chunk):
                if len(wanted):
                    noise = torch.randn(len(wanted), generator.latent_dim, generator=random)
                    images.append(generator(noise.to(self._device), wanted.to(self._device)))
        return GeneratedImages(torch.cat(images), owners.to(self._device), labels.to(self._device))


def load_generators(
    uploads: Sequence[GeneratorReply],
    settings: GenerationSettings,
    image_shape: tuple[int, int, int],
    num_classes: int,
) -> list[Generator]:
    """Build the networks of uploaded generators."""
    generators = []
    with torch.random.fork_rng(devices=[]):
        for upload in uploads:
            generator = settings.build_generator(image_shape, num_classes)
            generator.load_state_dict(upload.generator)
            generators.append(generator)
    return generators


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
        images: pixels in ``[0, 1]``, shape ``(M, channels, H, W)``.
        teacher_logits: shape ``(M, C)``.
        balanced: whether images are drawn so that all pseudo-labels come equally often.
    """

    def __init__(self, images: Tensor, teacher_logits: Tensor, balanced: bool) -> None:
        self.images, self.teacher_logits = images, teacher_logits
        pseudo_labels = teacher_logits.argmax(-1).cpu()
        counts = torch.bincount(pseudo_labels, minlength=teacher_logits.shape[1]).double()
        self.weights = 1 / counts[pseudo_labels] if balanced else torch.ones(len(images)).double()

    def batches(self, batch_size: int, steps: int, seed: int) -> "TaughtBatches":
        """Return random batches; each is the global one, of which every rank takes its share."""
        return TaughtBatches(self, batch_size, steps, seed)


class TaughtBatches:
    """Random batches of a pool, drawn with replacement."""

    def __init__(self, pool: TaughtPool, batch_size: int, steps: int, seed: int) -> None:
        self._pool, self._batch_size, self._steps, self._seed = pool, batch_size, steps, seed

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[TaughtImages]:
        random = torch.Generator().manual_seed(self._seed)
        for _ in range(self._steps):
            batch = torch.multinomial(self._pool.weights, self._batch_size, replacement=True, generator=random)
            mine = own_share(batch).to(self._pool.images.device)
            yield TaughtImages(self._pool.images[mine], self._pool.teacher_logits[mine])


@torch.no_grad()
def ask_teacher(teacher: nn.Module, images: Tensor, chunk: int = 512) -> Tensor:
    """Return the teacher's answers to pixels ``(M, channels, H, W)``, in chunks, on their device."""
    teacher.to(images.device).eval()
    return torch.cat([teacher(batch) for batch in images.split(chunk)])
