"""What does training a generator cost beside a bare loop with the same two networks and losses?

A client's generator of the digits at the default settings: hinge loss, labels, the client's classifier as a guide to
the mix of classes, and a moving average of the weights. The loop does the same in plain PyTorch, in turn and in one
process, and must end with the same bits.

    python benchmarks/generator_training.py [--pairs 7] [--steps 200] [--threads 1]
"""

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from measuring import Figure, in_turn, medians, ratio, show
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam

from mosaic.batches import ShuffledBatches
from mosaic.losses.adversarial import diversity
from mosaic.nets import Classifier, SmallCNN
from mosaic.seeding import seeded
from mosaic.tasks.generation import GenerationTask
from mosaic.tasks.generation_settings import GenerationSettings
from mosaic.training.phases import PhaseRunner, many_phases

CPU = PhaseRunner({"accelerator": "cpu", "devices": 1})


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        settings: of the generator.
        guide: the client's classifier.
        prior: shares of the classes.
        batches: real images.
        phases: trains, on its device.
    """

    settings: GenerationSettings
    guide: Classifier
    prior: Tensor
    batches: ShuffledBatches
    phases: PhaseRunner


def phase(case: Case) -> nn.Module:
    """Train through the phase runner."""
    with seeded(0):
        task = GenerationTask(case.settings, case.guide, case.prior, num_images=200, seed=1)
    case.phases.run(task, case.batches, seed=0)
    return task.trained_generator()


def bare(case: Case) -> nn.Module:
    """Train in a loop."""
    settings, device, shape = case.settings, case.phases.device, case.guide.image_shape
    guide, prior = copy.deepcopy(case.guide).to(device).eval().requires_grad_(False), case.prior.to(device)
    with seeded(0):
        generator = settings.build_generator(shape, 10)
        discriminator = settings.build_discriminator(shape, 10)
    generator, discriminator = generator.to(device), discriminator.to(device)
    average = copy.deepcopy(generator).requires_grad_(False)
    for parameter in average.parameters():
        parameter.zero_()
    learners = [
        Adam(net.parameters(), lr=settings.learning_rate, betas=settings.betas, fused=device.type == "cpu" or None)
        for net in (discriminator, generator)
    ]
    random = torch.Generator().manual_seed(1)
    judges = list(discriminator.parameters())
    makers, kept = (list[torch.Tensor](net.parameters()) for net in (generator, average))
    for images, targets in case.batches:
        real, labels = images.to(device).float() / 255, targets.to(device)
        fake = generator(torch.randn(len(real), settings.latent_dim, generator=random).to(device), labels)
        on_real, on_fake = discriminator(torch.cat([real, fake.detach()]), torch.cat([labels, labels])).chunk(2)
        learners[0].zero_grad()
        (F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()).backward()
        learners[0].step()
        for parameter in judges:
            parameter.requires_grad = False
        loss = -discriminator(fake, labels).mean() + settings.diversity_weight * diversity(guide(fake), prior)
        learners[1].zero_grad()
        loss.backward()
        learners[1].step()
        for parameter in judges:
            parameter.requires_grad = True
        with torch.no_grad():
            torch._foreach_lerp_(kept, makers, 1 - settings.average_decay)
            for ours, theirs in zip(average.buffers(), generator.buffers(), strict=True):
                ours.copy_(theirs)
    with torch.no_grad():
        torch._foreach_div_(kept, 1 - settings.average_decay ** len(case.batches))
    return average.cpu()


def digits(steps: int) -> Case:
    """Return a client's generator at the default settings."""
    return case_of((1, 8, 8), SmallCNN((1, 8, 8), 10, width=16), GenerationSettings(), steps, CPU)


def case_of(
    shape: tuple[int, int, int], guide: Classifier, settings: GenerationSettings, steps: int, phases: PhaseRunner
) -> Case:
    """Return a case with 200 random images of three classes."""
    random = torch.Generator().manual_seed(0)
    images, labels = torch.randint(256, (200, *shape), generator=random), torch.randint(3, (200,), generator=random)
    prior = torch.tensor([0.3, 0.3, 0.3] + [0.1 / 7] * 7)
    batch_size = settings.batch_size
    batches = ShuffledBatches(images.to(torch.uint8), labels, batch_size=batch_size, steps=steps, seed=0)
    return Case(settings, guide, prior, batches, phases)


def figures(pairs: int, case: Case | None = None) -> list[Figure]:
    """Return time through the phase runner over that of the loop."""
    case = case or digits(200)
    variants: dict[str, Callable[[], nn.Module]] = {"bare": lambda: bare(case), "phase": lambda: phase(case)}
    with many_phases():
        for _ in range(3):
            ours, theirs = (variant().state_dict() for variant in variants.values())
        if case.phases.device.type == "cpu":
            assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
        seconds = in_turn(variants, pairs)
    name = f"(e) {len(case.batches)} steps of a generator, over a bare loop"
    return [Figure(name, ratio(seconds, "phase", "bare"), 1.10, True, medians(seconds))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    raise SystemExit(not show(figures(options.pairs, digits(options.steps))))


if __name__ == "__main__":
    main()
