"""Train a generator against a student on the server, in turns, with the clients' models as judges (FedFTG, DFRD)."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from mosaic.batches import world_size
from mosaic.errors import require_at_least_zero, require_positive
from mosaic.nets.batchnorm import batch_norms
from mosaic.nets.classifier import Classifier, ImageShape
from mosaic.nets.dcgan import Generator, Initialization
from mosaic.training.manual import ManualTask, let_learn
from mosaic.training.optimizers import adam
from mosaic.transfer import send


@dataclass(frozen=True)
class GeneratorDistillationSettings:
    """How the server's generator and the student take turns. "Released" is FedFTG's code.

    Attributes:
        iterations: blocks of generator updates, then student updates, in a round (released: 10).
        batch_size: generated images per update (released: 50).
        redraw: whether every update has noise and labels of its own; otherwise they are drawn once for each block
            (released), which with larger budgets shows the student the same few images again and again.
        latent_dim: length of the noise (released: 100; 256 for CIFAR-100).
        width: channels of the generator before its last layer (released: 64).
        initialization: ``default`` is PyTorch's (released), ``dcgan`` is N(0, 0.02).
        generator_learning_rate: of Adam (released: 0.01).
        generator_betas: of Adam (released: 0.9 and 0.999).
        student_learning_rate: of plain SGD (released: 0.1).
        student_weight_decay: of SGD (released: 1e-3).
        freeze_statistics: whether the student's BatchNorm statistics stay those of the clients' images (released: they
            follow the generated ones).
    """

    iterations: int = 10
    batch_size: int = 50
    redraw: bool = True
    latent_dim: int = 64
    width: int = 16
    initialization: Initialization = "default"
    generator_learning_rate: float = 2e-3
    generator_betas: tuple[float, float] = (0.9, 0.999)
    student_learning_rate: float = 0.1
    student_weight_decay: float = 1e-3
    freeze_statistics: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        section = "algorithm.tuning"
        require_positive(
            section,
            iterations=self.iterations,
            batch_size=self.batch_size,
            latent_dim=self.latent_dim,
            width=self.width,
            generator_learning_rate=self.generator_learning_rate,
            student_learning_rate=self.student_learning_rate,
        )
        require_at_least_zero(section, student_weight_decay=self.student_weight_decay)

    def build_generator(self, image_shape: ImageShape, num_classes: int) -> Generator:
        """Return a freshly initialised conditional generator."""
        return Generator(image_shape, num_classes, self.latent_dim, self.width, True, self.initialization)


class Turn(NamedTuple):
    """One block: so many updates of the generator, then so many of the student."""

    generator_updates: int
    student_updates: int


class Turns:
    """The blocks of one round, as even as whole numbers allow.

    Args:
        generator_updates: of all blocks together.
        student_updates: of all blocks together.
        blocks: how many.

    >>> [tuple(turn) for turn in Turns(generator_updates=7, student_updates=2, blocks=3)]
    [(2, 0), (2, 1), (3, 1)]
    """

    def __init__(self, generator_updates: int, student_updates: int, blocks: int) -> None:
        self.generator_updates, self.student_updates = generator_updates, student_updates
        self._blocks = blocks

    def __len__(self) -> int:
        return self._blocks

    def __iter__(self) -> Iterator[Turn]:
        for block in range(self._blocks):
            yield Turn(self._part(self.generator_updates, block), self._part(self.student_updates, block))

    def _part(self, total: int, block: int) -> int:
        return total * (block + 1) // self._blocks - total * block // self._blocks


class Wishes(NamedTuple):
    """What a conditional generator is asked for: noise ``(B, latent_dim)`` and labels ``(B,)``."""

    noise: Tensor
    labels: Tensor


def draw_wishes(class_counts: Tensor, latent_dim: int, count: int, random: torch.Generator) -> Wishes:
    """Draw what to ask a generator for.

    Args:
        class_counts: how often each class is held, shape ``(C,)``; labels are drawn in proportion, so a class that
            nobody holds is never asked for.
        latent_dim: length of the noise.
        count: B.
        random: CPU generator, so that the device does not matter.
    """
    labels = torch.multinomial(class_counts.double().cpu(), count, replacement=True, generator=random)
    return Wishes(torch.randn(count, latent_dim, generator=random), labels)


class Memory(NamedTuple):
    """Another generator, frozen and in eval mode, that makes this share of the student's images."""

    generator: nn.Module
    share: float


class DistillationObjective(nn.Module, ABC):
    """What tells one method from another: what the generator seeks and what the student follows."""

    @abstractmethod
    def generator_terms(self, images: Tensor, wishes: Wishes, student: nn.Module, update: int) -> dict[str, Tensor]:
        """Return the terms of the generator's loss, weighted and by name, for images with gradient.

        Args:
            images: made by the generator, pixels in ``[0, 1]``, shape ``(B, channels, H, W)``.
            wishes: what the images were made from.
            student: frozen and in eval mode.
            update: of the generator in this round, from 0.
        """

    @abstractmethod
    def student_loss(self, logits: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of the student's logits ``(B, C)`` on images of these wanted labels."""


class GeneratorDistillationTask(ManualTask):
    """Let a generator look for images from which the student can learn, and the student learn from them.

    The generator's moving statistics make the student's images, the student's and the judges' own make the generator's
    loss: only who learns is in training mode.

    Args:
        generator: conditional; trained in place.
        student: trained in place.
        objective: what both minimise; everything in it is frozen and in eval mode.
        class_counts: images of every class that the clients hold together, shape ``(C,)``.
        settings: how to train.
        seed: of noise and labels; each rank adds its number.
        memory: what else makes images for the student.
    """

    def __init__(
        self,
        generator: Generator,
        student: Classifier,
        objective: DistillationObjective,
        class_counts: Tensor,
        settings: GeneratorDistillationSettings,
        seed: int,
        memory: Memory | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.generator, self.student, self.objective = generator, student, objective
        self.memory = memory.generator if memory else None
        self._share = memory.share if memory else 0.0
        self._class_counts = class_counts
        self._learning = list(student.parameters())
        self._seed, self._random = seed, torch.Generator()
        self._update = 0

    def on_fit_start(self) -> None:
        """Keep the judges in eval mode, whatever the Trainer did, and give every rank its own noise."""
        self.objective.eval()
        if self.memory is not None:
            self.memory.eval()
        self._random.manual_seed(self._seed + self.global_rank)

    def networks(self) -> list[nn.Module]:
        """Return who makes images, who learns and who judges; the objective only joins what these say."""
        judges = (module for module in self.objective.modules() if isinstance(module, Classifier))
        makers = [self.generator] if self.memory is None else [self.generator, self.memory]
        return [*makers, self.student, *judges]

    def configure_optimizers(self) -> list[Optimizer]:
        """Return Adam for the generator and SGD for the student."""
        settings = self.settings
        return [
            adam(self.generator.parameters(), settings.generator_learning_rate, settings.generator_betas),
            SGD(self._learning, settings.student_learning_rate, weight_decay=settings.student_weight_decay),
        ]

    def training_step(self, batch: Turn, batch_idx: int) -> None:
        """Let the generator learn for a while, then the student."""
        optimize_generator, optimize_student = cast(list[Any], self.optimizers())
        wishes = None if self.settings.redraw else self._wish()
        self._let_generator_learn()
        for _ in range(batch.generator_updates):
            self.descend(optimize_generator, self._generator_loss(wishes or self._wish()))
        self._let_student_learn()
        for _ in range(batch.student_updates):
            self.descend(optimize_student, self._student_loss(wishes or self._wish()))

    def _let_generator_learn(self) -> None:
        self.generator.train()
        self.student.eval()
        let_learn(self._learning, False)

    def _let_student_learn(self) -> None:
        self.generator.eval()
        self.student.train()
        if self.settings.freeze_statistics:
            for layer in batch_norms(self.student).values():
                layer.eval()
        let_learn(self._learning, True)

    def _generator_loss(self, wishes: Wishes) -> Tensor:
        terms = self.objective.generator_terms(self.generator(*wishes), wishes, self.student, self._update)
        self._update += 1
        for name, term in terms.items():
            self.record(name, term)
        return torch.stack(list(terms.values())).sum()

    def _student_loss(self, wishes: Wishes) -> Tensor:
        with torch.no_grad():
            images = self._make(wishes)
        loss = self.objective.student_loss(self.student(images), images, wishes.labels)
        self.record("student", loss)
        return loss

    def _make(self, wishes: Wishes) -> Tensor:
        """Make images for the student, the first of them from memory."""
        first = round(self._share * len(wishes.labels))
        if self.memory is None or first == 0:
            return cast(Tensor, self.generator(*wishes))
        remembered = self.memory(wishes.noise[:first], wishes.labels[:first])
        if first == len(wishes.labels):
            return cast(Tensor, remembered)
        return torch.cat([remembered, self.generator(wishes.noise[first:], wishes.labels[first:])])

    def _wish(self) -> Wishes:
        count = max(2, self.settings.batch_size // world_size())  # BatchNorm never sees a batch of one
        wishes = draw_wishes(self._class_counts, self.settings.latent_dim, count, self._random)
        return Wishes(*(send(part, self.device) for part in wishes))
