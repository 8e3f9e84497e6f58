"""GANs in lockstep learn what each of them learns alone: in double precision, where rounding hides nothing."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from mosaic.nets import SmallCNN
from mosaic.seeding import seeded
from mosaic.tasks import gan
from mosaic.tasks.generation import GenerationTask
from mosaic.tasks.generation_settings import GenerationSettings
from mosaic.tasks.stacked_generation import StackedGenerationTask
from tests.cases import for_each

CLIENTS, STEPS, BATCH, CLASSES = 3, 6, 8, 4


@pytest.fixture
def precise(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compute in double precision."""
    monkeypatch.setattr(gan, "to_pixels", lambda images: images.double() / 255)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def task(client: int, settings: GenerationSettings) -> GenerationTask:
    with seeded(client):
        guide, prior = SmallCNN((1, 8, 8), CLASSES, 4), torch.rand(CLASSES) + 0.1
        return GenerationTask(settings, guide, prior / prior.sum(), 100, seed=100 + client)


def train(given: Any, images: Tensor, labels: Tensor) -> None:
    """Do what a Trainer does, in a bare loop."""
    optimizers = given.configure_optimizers()

    def descend(optimizer: Any, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    given.optimizers, given.descend = lambda: optimizers, descend
    given.train()
    given.on_fit_start()
    for batch in zip(images, labels, strict=True):
        given.training_step(batch, 0)


@for_each(
    "settings",
    [
        GenerationSettings(width=4, latent_dim=5),
        GenerationSettings(
            **{"width": 4, "latent_dim": 5, "loss": "bce", "conditional": False, "entropy_weight": 0.1},
            discriminator_normalization="batch",
            average_decay=0.0,
        ),
        GenerationSettings(width=4, latent_dim=5, diversity_weight=0.0),
    ],
    ids=["ours", "released kind", "without a guide"],
)
def test_each_learns_what_it_learns_alone(settings: GenerationSettings, precise: None) -> None:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (STEPS, CLIENTS, BATCH, 1, 8, 8), dtype=torch.uint8, generator=random)
    labels = torch.randint(0, CLASSES, (STEPS, CLIENTS, BATCH), generator=random)
    alone = [task(client, settings) for client in range(CLIENTS)]
    for k, each in enumerate(alone):
        train(each, images[:, k], labels[:, k])
    stacked = StackedGenerationTask([task(client, settings) for client in range(CLIENTS)])
    train(stacked, images, labels)
    for ours, theirs in zip(stacked.trained_generators(), alone, strict=True):
        expected = theirs.trained_generator().state_dict()
        for name, tensor in ours.state_dict().items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-9, atol=1e-11, msg=name)
    curves = stacked.recorded()
    assert curves.keys() == alone[0].recorded().keys()
    for name in curves:
        expected_curves = torch.stack([each.recorded()[name] for each in alone], dim=1)
        torch.testing.assert_close(curves[name], expected_curves, rtol=1e-6, atol=1e-6)
