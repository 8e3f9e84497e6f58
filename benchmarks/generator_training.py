"""What does training a generator cost beside a bare loop with the same two networks and losses?

A client's generator of the digits at the default settings: hinge loss, labels, the client's classifier as a guide to
the mix of classes, and a moving average of the weights. The loop does the same in plain PyTorch, in turn and in one
process, and must end with the same bits.

    python benchmarks/generator_training.py [--pairs 7] [--steps 200] [--threads 1]
"""

import argparse
import copy

import torch
from measuring import Figure, in_turn, medians, ratio, show
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Adam

from mosaic.batches import ShuffledBatches
from mosaic.losses.adversarial import diversity
from mosaic.nets import SmallCNN
from mosaic.nets.dcgan import Generator
from mosaic.phases import PhaseRunner, many_phases
from mosaic.seeding import seeded
from mosaic.tasks.generation import GenerationSettings, GenerationTask

PHASES = PhaseRunner({"accelerator": "cpu", "devices": 1})
SETTINGS = GenerationSettings()


def phase(guide: SmallCNN, prior: Tensor, batches: ShuffledBatches) -> Generator:
    """Train through the phase runner."""
    with seeded(0):
        task = GenerationTask(SETTINGS, guide, prior, num_images=200, seed=1)
    PHASES.run(task, batches, seed=0)
    return task.trained_generator()


def bare(guide: SmallCNN, prior: Tensor, batches: ShuffledBatches) -> Generator:
    """Train in a loop."""
    guide = copy.deepcopy(guide).eval().requires_grad_(False)
    with seeded(0):
        generator = SETTINGS.build_generator((1, 8, 8), 10)
        discriminator = SETTINGS.build_discriminator((1, 8, 8), 10)
    average = copy.deepcopy(generator).requires_grad_(False)
    for parameter in average.parameters():
        parameter.zero_()
    learners = [
        Adam(net.parameters(), lr=SETTINGS.learning_rate, betas=SETTINGS.betas, fused=True)
        for net in (discriminator, generator)
    ]
    random = torch.Generator().manual_seed(1)
    judges, makers, kept = (list(net.parameters()) for net in (discriminator, generator, average))
    for images, labels in batches:
        real = images.float() / 255
        fake = generator(torch.randn(len(real), SETTINGS.latent_dim, generator=random), labels)
        on_real, on_fake = discriminator(torch.cat([real, fake.detach()]), torch.cat([labels, labels])).chunk(2)
        learners[0].zero_grad()
        (F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()).backward()
        learners[0].step()
        for parameter in judges:
            parameter.requires_grad = False
        loss = -discriminator(fake, labels).mean() + SETTINGS.diversity_weight * diversity(guide(fake), prior)
        learners[1].zero_grad()
        loss.backward()
        learners[1].step()
        for parameter in judges:
            parameter.requires_grad = True
        with torch.no_grad():
            torch._foreach_lerp_(kept, makers, 1 - SETTINGS.average_decay)
            for ours, theirs in zip(average.buffers(), generator.buffers(), strict=True):
                ours.copy_(theirs)
    for parameter in kept:
        parameter.data.div_(1 - SETTINGS.average_decay ** len(batches))
    return average


def figures(pairs: int, steps: int = 200) -> list[Figure]:
    """Return time through the phase runner over that of the loop."""
    random = torch.Generator().manual_seed(0)
    images, labels = torch.randint(256, (200, 1, 8, 8), generator=random), torch.randint(3, (200,), generator=random)
    prior = torch.tensor([0.3, 0.3, 0.3] + [0.1 / 7] * 7)
    guide = SmallCNN((1, 8, 8), 10, width=16)

    def batches() -> ShuffledBatches:
        return ShuffledBatches(images.to(torch.uint8), labels, batch_size=SETTINGS.batch_size, steps=steps, seed=0)

    variants = {"bare": lambda: bare(guide, prior, batches()), "phase": lambda: phase(guide, prior, batches())}
    with many_phases():
        for _ in range(3):
            ours, theirs = (variant().state_dict() for variant in variants.values())
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
        seconds = in_turn(variants, pairs)
    name = f"(e) {steps} steps of a generator, over a bare loop"
    return [Figure(name, ratio(seconds, "phase", "bare"), 1.10, True, medians(seconds))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    raise SystemExit(not show(figures(options.pairs, options.steps)))


if __name__ == "__main__":
    main()
