"""What are generated photographs worth for the seconds that their generator took?

One client holds 2,000 images of five classes of CIFAR-10. Its generator draws 10,000, and a student that has nothing
but these and their labels is asked about the test images of the five classes. One thread; seconds are of the CPU.

    MOSAIC_DATA=... python benchmarks/seconds_of_a_gan.py [--seconds 40 160] [--kinds gan diffaugment] [--seed 0]
"""

import argparse
import os
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim import Adam

from mosaic.batches import ShuffledBatches
from mosaic.data import ParquetSource
from mosaic.generation import Adversarial, ClassGaussians, Generation
from mosaic.generation.base import OwnImages
from mosaic.nets import SmallCNN
from mosaic.nets.augmentation import Augmentation
from mosaic.nets.classifier import Classifier, ImageShape
from mosaic.nets.dcgan import Discriminator
from mosaic.nets.inference import predict, to_bytes, to_pixels
from mosaic.seeding import seeded
from mosaic.tasks.classification import ClassificationTask
from mosaic.training.phases import PhaseRunner
from mosaic.training.task import Task

CLASSES, EACH, DRAWN, TRIED = 5, 400, 10_000, 30
STEPS, BATCH, RATE = 1500, 64, 1e-3
"""Of the student."""
CPU = PhaseRunner({"accelerator": "cpu", "devices": 1})


class Judged(nn.Module):
    """A discriminator that sees every image, real or generated, through DiffAugment (Zhao et al. 2020, 2006.10738).

    Brightness, saturation and contrast change, the image moves by an eighth, and a square of half its side turns grey.
    """

    def __init__(self, discriminator: Discriminator) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the discriminator's logits ``(B,)``."""
        logits: Tensor = self.discriminator(diff_augment(images), labels)
        return logits


def diff_augment(images: Tensor) -> Tensor:
    """Return images ``(B, channels, S, S)`` with pixels in ``[0, 1]``, each changed by chance."""
    count, _, side, _ = images.shape
    bright, saturated, contrast = torch.rand(3, count, 1, 1, 1)
    images = images + (bright - 0.5) / 2  # half of DiffAugment's range, whose pixels are in [-1, 1]
    images = torch.lerp(images.mean(1, keepdim=True), images, 2 * saturated)
    images = torch.lerp(images.mean((1, 2, 3), keepdim=True), images, 0.5 + contrast)
    images = Augmentation(padding=side // 8)(images, torch.default_generator)
    places, middles = torch.arange(side), torch.randint(0, side, (2, count, 1))
    rows, columns = (places - middles).abs() <= side // 4
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.5)


@dataclass(frozen=True)
class DiffAugmented(Adversarial):
    """A GAN whose discriminator sees images through DiffAugment."""

    def build_discriminator(self, image_shape: ImageShape, num_classes: int) -> nn.Module:  # type: ignore[override]
        """Wrap it."""
        return Judged(super().build_discriminator(image_shape, num_classes))


@dataclass(frozen=True)
class Spectral(Adversarial):
    """A GAN whose discriminator has spectral norm one in every layer (Miyato et al. 2018, arXiv 1802.05957)."""

    def build_discriminator(self, image_shape: ImageShape, num_classes: int) -> Discriminator:
        """Normalise its layers."""
        discriminator = super().build_discriminator(image_shape, num_classes)
        for layer in list(discriminator.modules()):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                spectral_norm(layer)
        return discriminator


KINDS = {"gan": Adversarial, "diffaugment": DiffAugmented, "spectral": Spectral}


class Client:
    """Images of five classes, a classifier that has learnt them, and the test images of these classes.

    Args:
        data: folder of CIFAR-10's parquet files.
        seed: of the choice of images, and of all training.
    """

    def __init__(self, data: Path, seed: int) -> None:
        loaded = ParquetSource(str(data / "train.parquet"), str(data / "test.parquet")).load()
        random = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(loaded.train), generator=random)
        held = torch.cat([order[loaded.train.labels[order] == label][:EACH] for label in range(CLASSES)])
        self.own = loaded.train.at(held)
        self.test = loaded.test.at((loaded.test.labels < CLASSES).nonzero()[:, 0])
        self.seed = seed
        self.guide = self.student(self.own.pixels, self.own.labels)

    def student(self, pixels: Tensor, labels: Tensor) -> Classifier:
        """Return a classifier that has learnt 8-bit images and their labels."""
        with seeded(self.seed):
            net = SmallCNN(self.own.shape, CLASSES, width=32)
        augmentation, random = Augmentation(padding=4, flip=True), torch.Generator().manual_seed(self.seed)
        task = ClassificationTask(
            net,
            lambda net, images, wanted: F.cross_entropy(net(images), wanted),
            partial(Adam, lr=RATE),
            RATE,
            lambda images: to_pixels(augmentation(images, random)),
        )
        CPU.run(task, ShuffledBatches(pixels, labels, batch_size=BATCH, steps=STEPS, seed=self.seed), self.seed)
        return net

    def accuracy(self, net: Classifier) -> float:
        """Return its accuracy on the test images."""
        answers = predict(net, self.test.pixels, CPU.device).argmax(1)
        return float((answers == self.test.labels).float().mean())

    def images(self, generation: Generation) -> tuple[Tensor, Tensor, float]:
        """Return generated 8-bit images, their labels, and the CPU seconds in which the generator was learnt."""
        counts = torch.full((CLASSES,), EACH)
        pixels, labels = self.own.pixels, self.own.labels

        def train(task: Task, size: int, steps: int, _: float) -> dict[str, Tensor]:
            return CPU.run(
                task, ShuffledBatches(pixels, labels, batch_size=size, steps=steps, seed=self.seed), self.seed
            )

        prior = counts / counts.sum()
        own = OwnImages(lambda: to_pixels(pixels), labels, counts, prior, self.guide, train, lambda _: self.seed)
        start = time.process_time()
        generator = generation.fit(own).generator.eval()
        seconds = time.process_time() - start
        random = torch.Generator().manual_seed(self.seed)
        wanted = torch.arange(DRAWN) % CLASSES
        noise = torch.randn(DRAWN, generator.latent_dim, generator=random)
        with torch.inference_mode():
            drawn = [to_bytes(generator(*part)) for part in zip(noise.split(500), wanted.split(500), strict=True)]
        return torch.cat(drawn), wanted, seconds


def steps_in(client: Client, generation: Adversarial, seconds: float) -> int:
    """Return how many updates fit into so many seconds of the CPU, by what a few take."""
    few = client.images(replace(generation, steps=TRIED))[-1]
    return max(1, round(TRIED * seconds / few))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, nargs="*", default=[40, 160])
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    client = Client(Path(os.environ["MOSAIC_DATA"]) / "cifar10", options.seed)
    table = Table("images", "updates", "CPU seconds", "student's test accuracy, %")

    def show(name: str, steps: int, pixels: Tensor, labels: Tensor, seconds: float) -> None:
        accuracy = client.accuracy(client.student(pixels, labels))
        table.add_row(name, str(steps or ""), f"{seconds:.1f}", f"{100 * accuracy:.1f}")
        print(name, steps, f"{seconds:.1f} s, {100 * accuracy:.1f} %", flush=True)

    show("the client's 2,000 real ones", 0, client.own.pixels, client.own.labels, 0)
    show("ClassGaussians", 0, *client.images(ClassGaussians()))
    for kind in options.kinds:
        for seconds in options.seconds:
            steps = steps_in(client, KINDS[kind](), seconds)
            show(kind, steps, *client.images(KINDS[kind](steps=steps)))
    Console().print(table)


if __name__ == "__main__":
    main()
