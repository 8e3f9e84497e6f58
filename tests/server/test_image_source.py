import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mosaic.messages import GeneratorReply
from mosaic.nets import Generator
from mosaic.server.image_source import (
    GeneratedImages,
    GeneratorMixture,
    TaughtPool,
    ask_teacher,
    load_generators,
    origin_log_prior,
)
from mosaic.tasks.generation import GenerationSettings

CPU = torch.device("cpu")
SHAPE = (1, 8, 8)
COUNTS = [[90, 0, 10], [0, 4, 0]]


class Flat(Generator):
    """Says in every pixel which generator made it and which class was wanted."""

    def __init__(self, owner: int, conditional: bool = True) -> None:
        super().__init__(SHAPE, 3, latent_dim=2, width=1, conditional=conditional)
        self.owner = owner

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        assert labels is not None
        return ((3 * self.owner + labels) / 10)[:, None, None, None].expand(-1, *SHAPE)


def uploads(counts: list[list[int]]) -> list[GeneratorReply]:
    return [GeneratorReply(i, {}, torch.tensor(row), {}, {}) for i, row in enumerate(counts)]


def mixture(balance: float = 0.5) -> GeneratorMixture:
    return GeneratorMixture(uploads(COUNTS), [Flat(0), Flat(1)], CPU, balance)


def test_every_image_comes_with_its_own_owner_and_label(random: torch.Generator) -> None:
    source = mixture().draw(300, random, chunk=7)
    said = (10 * source.images[:, 0, 0, 0]).round().long()
    assert torch.equal(said, 3 * source.owners + source.labels)
    assert len(source.images) == 300


def test_labels_are_those_that_the_owner_holds(random: torch.Generator) -> None:
    source = mixture().draw(2000, random)
    assert set(zip(source.owners.tolist(), source.labels.tolist(), strict=True)) == {(0, 0), (0, 2), (1, 1)}
    own = source.labels[source.owners == 0]
    assert (own == 0).float().mean().item() == pytest.approx(0.9, abs=0.05)


@pytest.mark.parametrize(("balance", "share"), [(0.0, 1 / 2), (0.5, 10 / 12), (1.0, 100 / 104)])
def test_balance_decides_between_clients_and_images(random: torch.Generator, balance: float, share: float) -> None:
    owners = mixture(balance).draw(2000, random).owners
    assert (owners == 0).float().mean().item() == pytest.approx(share, abs=0.05)


def real_generators(settings: GenerationSettings) -> tuple[list[GeneratorReply], list[Generator]]:
    torch.manual_seed(0)
    nets = [settings.build_generator(SHAPE, 3) for _ in COUNTS]
    sent = [
        GeneratorReply(i, net.state_dict(), torch.tensor(row), {}, {})
        for i, (net, row) in enumerate(zip(nets, COUNTS, strict=True))
    ]
    return sent, nets


@pytest.mark.parametrize("conditional", [True, False])
def test_images_lie_in_the_range_of_pixels_and_carry_no_gradient(random: torch.Generator, conditional: bool) -> None:
    settings = GenerationSettings(latent_dim=4, width=2, conditional=conditional)
    sent, _ = real_generators(settings)
    nets = load_generators(sent, settings, SHAPE, 3)
    source = GeneratorMixture(sent, nets, CPU).draw(20, random)
    assert source.images.shape == (20, *SHAPE)
    assert 0 <= source.images.min() < source.images.max() <= 1
    assert not source.images.requires_grad


def test_drawing_leaves_the_generators_as_they_were(random: torch.Generator) -> None:
    settings = GenerationSettings(latent_dim=4, width=2)
    sent, _ = real_generators(settings)
    nets = load_generators(sent, settings, SHAPE, 3)
    GeneratorMixture(sent, nets, CPU).draw(20, random)
    for net, reply in zip(nets, sent, strict=True):
        assert not net.training
        assert all(torch.equal(tensor, reply.generator[name]) for name, tensor in net.state_dict().items())


def test_loading_takes_the_uploaded_weights_and_no_random_numbers() -> None:
    settings = GenerationSettings(latent_dim=4, width=2)
    sent, nets = real_generators(settings)
    before = torch.get_rng_state()
    loaded = load_generators(sent, settings, SHAPE, 3)
    assert torch.equal(torch.get_rng_state(), before)
    noise, labels = torch.randn(3, 4), torch.tensor([0, 1, 2])
    for ours, theirs in zip(loaded, nets, strict=True):
        assert torch.equal(ours.eval()(noise, labels), theirs.eval()(noise, labels))


def test_the_generator_of_random_numbers_decides_the_images() -> None:
    settings = GenerationSettings(latent_dim=4, width=2)
    sent, _ = real_generators(settings)
    source = GeneratorMixture(sent, load_generators(sent, settings, SHAPE, 3), CPU)
    first, again, other = (source.draw(9, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert not torch.equal(first.images, other.images)


def test_a_mixture_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one generator"):
        GeneratorMixture([], [], CPU)


def drawn(owners: list[int], labels: list[int]) -> GeneratedImages:
    return GeneratedImages(torch.zeros(len(owners), *SHAPE), torch.tensor(owners), torch.tensor(labels))


def test_the_origin_of_an_image_is_its_owners_prior() -> None:
    said = origin_log_prior(drawn([0, 1, 0], [0, 1, 2]), torch.tensor(COUNTS), conditional=False, epsilon=1.0)
    np.testing.assert_allclose(said.exp(), [[1.9, 1.0, 1.1], [1.0, 2.0, 1.0], [1.9, 1.0, 1.1]], rtol=1e-6)


def test_a_drawn_label_replaces_the_owners_prior() -> None:
    said = origin_log_prior(drawn([0, 0], [2, 0]), torch.tensor(COUNTS), conditional=True, epsilon=0.5)
    np.testing.assert_allclose(said.exp(), [[0.5, 0.5, 1.5], [1.5, 0.5, 0.5]], rtol=1e-6)


@pytest.mark.parametrize("conditional", [True, False])
def test_the_origin_rules_no_class_out(conditional: bool) -> None:
    said = origin_log_prior(drawn([0, 1], [2, 1]), torch.tensor(COUNTS), conditional, epsilon=0.01)
    assert said.isfinite().all()
    torch.testing.assert_close(said.exp().sum(1), torch.full((2,), 1.03))


def pool(balanced: bool) -> TaughtPool:
    """Ninety images that the teacher takes for class 0 and ten for class 2; image i is i / 100 bright."""
    labels = torch.tensor([0] * 90 + [2] * 10)
    images = (torch.arange(100.0) / 100)[:, None, None, None].expand(100, *SHAPE)
    return TaughtPool(images, 2.0 * nn.functional.one_hot(labels, 3), balanced)


@pytest.mark.parametrize(("balanced", "share"), [(True, 0.5), (False, 0.1)])
def test_pseudo_labels_come_equally_often_or_as_they_are(balanced: bool, share: float) -> None:
    batches = pool(balanced).batches(batch_size=100, steps=20, seed=0)
    labels = torch.cat([batch.teacher_logits.argmax(1) for batch in batches])
    assert (labels == 2).float().mean().item() == pytest.approx(share, abs=0.05)


def test_images_keep_what_the_teacher_said_of_them() -> None:
    for images, logits in pool(balanced=True).batches(batch_size=16, steps=5, seed=0):
        number = (100 * images[:, 0, 0, 0]).round()
        assert torch.equal(logits.argmax(1) == 2, number >= 90)


def test_batches_are_repeatable_and_counted() -> None:
    batches = pool(balanced=False).batches(batch_size=16, steps=5, seed=0)
    first, second = ([batch.images.sum().item() for batch in batches] for _ in range(2))
    assert first == second
    assert len(set(first)) == len(batches) == 5
    other = pool(balanced=False).batches(batch_size=16, steps=5, seed=1)
    assert [batch.images.sum().item() for batch in other] != first


def test_ranks_share_one_global_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    (whole,) = pool(balanced=True).batches(batch_size=10, steps=1, seed=0)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    parts = Counter()
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        (batch,) = pool(balanced=True).batches(batch_size=10, steps=1, seed=0)
        assert len(batch.images) == 5
        parts.update(batch.images[:, 0, 0, 0].tolist())
    assert parts == Counter(whole.images[:, 0, 0, 0].tolist())


@pytest.mark.parametrize("chunk", [1, 4, 512])
def test_a_teacher_is_asked_in_eval_mode_without_gradient(chunk: int) -> None:
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.BatchNorm1d(3)).train()
    images = torch.rand(10, *SHAPE)
    said = ask_teacher(teacher, images, chunk)
    assert not said.requires_grad
    assert not teacher.training
    assert torch.equal(teacher[2].running_mean, torch.zeros(3))
    torch.testing.assert_close(said, teacher[1](images.flatten(1)) / math.sqrt(1 + 1e-5))
