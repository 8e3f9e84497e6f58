"""Train a generator and a student on the server, alternately, against the clients' models (FedFTG, DFRD)."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from mosaic.errors import (
    require_a_batch,
    require_at_least_zero,
    require_betas,
    require_choice,
    require_count,
    require_kinds,
    require_positive,
)
from mosaic.nets.batchnorm import freeze_statistics
from mosaic.nets.classifier import Classifier, ImageShape
from mosaic.nets.dcgan import Generator, Initialization
from mosaic.ranks import world_size
from mosaic.tasks.alternating import UpdateCounts
from mosaic.training.manual import ManualTask, set_requires_grad
from mosaic.training.optimizers import adam
from mosaic.transfer import send


@dataclass(frozen=True)
class GeneratorDistillationSettings:
    """How the server trains generator and student. "Released" is FedFTG's code.

    Attributes:
        iterations: blocks of generator updates followed by student updates, per round (released: 10).
        batch_size: generated images per update (released: 50).
        redraw: whether every update draws its own noise and labels; otherwise each block draws them once (released),
            which shows the student the same few images again and again when budgets are larger.
        latent_dim: length of the noise (released: 100; 256 for CIFAR-100).
        width: channels of the generator before its last layer (released: 64).
        initialization: ``default`` is PyTorch's (released), ``dcgan`` is N(0, 0.02).
        generator_learning_rate: of Adam (released: 0.01).
        generator_betas: of Adam (released: 0.9 and 0.999).
        student_learning_rate: of plain SGD (released: 0.1).
        student_weight_decay: of SGD (released: 1e-3).
        freeze_statistics: whether the student keeps the BatchNorm statistics of the clients' images (released: no).
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
        require_count(section, iterations=self.iterations, latent_dim=self.latent_dim, width=self.width)
        require_a_batch(section, self.batch_size)
        require_positive(
            section,
            generator_learning_rate=self.generator_learning_rate,
            student_learning_rate=self.student_learning_rate,
        )
        require_at_least_zero(section, student_weight_decay=self.student_weight_decay)
        require_betas(section, generator_betas=self.generator_betas)
        require_choice(section, Initialization, initialization=self.initialization)
        require_kinds(section, redraw=(self.redraw, bool), freeze_statistics=(self.freeze_statistics, bool))

    def build_generator(self, image_shape: ImageShape, num_classes: int) -> Generator:
        """Return a freshly initialised conditional generator."""
        return Generator(image_shape, num_classes, self.latent_dim, self.width, True, self.initialization)


class Conditions(NamedTuple):
    """The input of a conditional generator.

    Attributes:
        noise: shape ``(B, latent_dim)``.
        labels: shape ``(B,)``, on the same device.
        drawn: the same labels on the CPU.
    """

    noise: Tensor
    labels: Tensor
    drawn: Tensor


def draw_conditions(class_counts: Tensor, latent_dim: int, count: int, random: torch.Generator) -> Conditions:
    """Draw noise and labels.

    Args:
        class_counts: images of every class, shape ``(C,)``; labels are drawn in proportion, so that a class that
            nobody holds is never drawn.
        latent_dim: length of the noise.
        count: B.
        random: CPU generator, so that all devices draw the same.
    """
    labels = torch.multinomial(class_counts.double(), count, replacement=True, generator=random)
    return Conditions(torch.randn(count, latent_dim, generator=random), labels, labels)


class EarlierGenerator(NamedTuple):
    """Another generator, frozen and in eval mode, and the share of the student's images that it makes."""

    generator: nn.Module
    share: float


class DistillationObjective(nn.Module, ABC):
    """The losses of generator and student, in which the methods differ."""

    @abstractmethod
    def generator_terms(
        self, images: Tensor, conditions: Conditions, student: nn.Module, update: int
    ) -> dict[str, Tensor]:
        """Return the weighted terms of the generator's loss by name.

        Args:
            images: the generator's, pixels in ``[0, 1]``, shape ``(B, channels, H, W)``, with gradient.
            conditions: noise and labels of the images.
            student: frozen and in eval mode.
            update: number of the generator's update in this round, from 0.
        """

    @abstractmethod
    def student_loss(self, logits: Tensor, images: Tensor, conditions: Conditions) -> Tensor:
        """Return the loss of the student's logits ``(B, C)`` on images generated under these conditions."""


class GeneratorDistillationTask(ManualTask):
    """Alternately train a generator to make images that teach the student, and the student on such images.

    Only the network that learns is in training mode; all others use their moving BatchNorm statistics.

    Args:
        generator: conditional; trained in place.
        student: trained in place.
        objective: the losses of both; everything in it is frozen and in eval mode.
        class_counts: images of every class over all clients, shape ``(C,)``.
        settings: how to train.
        seed: of noise and labels; each rank adds its number.
        earlier: another generator of images for the student.
    """

    def __init__(
        self,
        generator: Generator,
        student: Classifier,
        objective: DistillationObjective,
        class_counts: Tensor,
        settings: GeneratorDistillationSettings,
        seed: int,
        earlier: EarlierGenerator | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.generator, self.student, self.objective = generator, student, objective
        self.earlier = earlier.generator if earlier else None
        self._share = earlier.share if earlier else 0.0
        self._class_counts = class_counts
        self._student_parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
        self._seed, self._random = seed, torch.Generator()
        self._update = 0

    def on_fit_start(self) -> None:
        """Put frozen networks back into eval mode, and give every rank its own noise."""
        self.objective.eval()
        if self.earlier is not None:
            self.earlier.eval()
        self._random.manual_seed(self._seed + self.global_rank)

    def networks(self) -> list[nn.Module]:
        """Return generators, student and the clients' models; the objective only combines their outputs."""
        clients = (module for module in self.objective.modules() if isinstance(module, Classifier))
        earlier = [] if self.earlier is None else [self.earlier]
        return [self.generator, *earlier, self.student, *clients]

    def configure_optimizers(self) -> list[Optimizer]:
        """Return Adam for the generator and SGD for the student."""
        settings = self.settings
        return [
            adam(self.generator.parameters(), settings.generator_learning_rate, settings.generator_betas),
            SGD(self._student_parameters, settings.student_learning_rate, weight_decay=settings.student_weight_decay),
        ]

    def training_step(self, batch: UpdateCounts, batch_idx: int) -> None:
        """Take the generator's updates of one block, then the student's."""
        optimize_generator, optimize_student = cast(list[Any], self.optimizers())
        conditions = None if self.settings.redraw else self._draw_conditions()
        self._prepare_generator_updates()
        for _ in range(batch.generator_updates):
            self.descend(optimize_generator, self._generator_loss(conditions or self._draw_conditions()))
        self._prepare_student_updates()
        for _ in range(batch.student_updates):
            self.descend(optimize_student, self._student_loss(conditions or self._draw_conditions()))

    def _prepare_generator_updates(self) -> None:
        self.generator.train()
        self.student.eval()
        set_requires_grad(self._student_parameters, False)

    def _prepare_student_updates(self) -> None:
        self.generator.eval()
        self.student.train()
        if self.settings.freeze_statistics:
            freeze_statistics(self.student)
        set_requires_grad(self._student_parameters, True)

    def _generator_loss(self, conditions: Conditions) -> Tensor:
        terms = self.objective.generator_terms(self._draw(conditions), conditions, self.student, self._update)
        self._update += 1
        for name, term in terms.items():
            self.record(name, term)
        return torch.stack(list(terms.values())).sum()

    def _student_loss(self, conditions: Conditions) -> Tensor:
        with torch.no_grad():
            images = self._generate(conditions)
        loss = self.objective.student_loss(self.student(images), images, conditions)
        self.record("student", loss)
        return loss

    def _generate(self, conditions: Conditions) -> Tensor:
        """Generate images for the student, the first of them with the earlier generator."""
        first = round(self._share * len(conditions.labels))
        if self.earlier is None or first == 0:
            return self._draw(conditions)
        recalled = self.earlier(conditions.noise[:first], conditions.labels[:first])
        if first == len(conditions.labels):
            return cast(Tensor, recalled)
        return torch.cat([recalled, self.generator(conditions.noise[first:], conditions.labels[first:])])

    def _draw(self, conditions: Conditions) -> Tensor:
        return cast(Tensor, self.generator(conditions.noise, conditions.labels))

    def _draw_conditions(self) -> Conditions:
        count = max(2, self.settings.batch_size // world_size())  # BatchNorm never sees a batch of one
        conditions = draw_conditions(self._class_counts, self.settings.latent_dim, count, self._random)
        noise, labels = (send(part, self.device) for part in (conditions.noise, conditions.labels))
        return Conditions(noise, labels, conditions.drawn)
