import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mosaic.generation import Adversarial
from mosaic.messages import GeneratorReply
from mosaic.nets import Generator
from mosaic.server.image_source import (
    GeneratedImages,
    GeneratorMixture,
    TaughtBatches,
    TaughtPool,
    UploadedGenerators,
    ask_owners,
    ask_teacher,
    origin_log_prior,
)
from tests.cases import for_each

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


def real_generators(settings: Adversarial) -> tuple[list[GeneratorReply], list[Generator]]:
    torch.manual_seed(0)
    nets = [settings.build_generator(SHAPE, 3) for _ in COUNTS]
    sent = [
        GeneratorReply(i, net.state_dict(), torch.tensor(row), {}, {})
        for i, (net, row) in enumerate(zip(nets, COUNTS, strict=True))
    ]
    return sent, nets


@pytest.mark.parametrize("conditional", [True, False])
def test_images_lie_in_the_range_of_pixels_and_carry_no_gradient(random: torch.Generator, conditional: bool) -> None:
    settings = Adversarial(latent_dim=4, width=2, conditional=conditional)
    sent, _ = real_generators(settings)
    nets = UploadedGenerators(sent, settings, SHAPE)
    source = GeneratorMixture(sent, nets, CPU).draw(20, random)
    assert source.images.shape == (20, *SHAPE)
    assert 0 <= source.images.min() < source.images.max() <= 1
    assert not source.images.requires_grad


def test_drawing_leaves_the_uploads_as_they_were(random: torch.Generator) -> None:
    settings = Adversarial(latent_dim=4, width=2)
    sent, _ = real_generators(settings)
    before = [{name: tensor.clone() for name, tensor in reply.generator.items()} for reply in sent]
    GeneratorMixture(sent, UploadedGenerators(sent, settings, SHAPE), CPU).draw(20, random)
    for reply, weights in zip(sent, before, strict=True):
        assert all(torch.equal(tensor, weights[name]) for name, tensor in reply.generator.items())


def test_generators_are_built_one_at_a_time() -> None:
    settings = Adversarial(latent_dim=4, width=2)
    sent, _ = real_generators(settings)
    nets = UploadedGenerators(sent, settings, SHAPE)
    assert len(nets) == len(sent) == len(list(nets)) == len(nets[:])
    assert nets[0] is not nets[0]


def test_a_mixture_knows_whose_generators_it_has() -> None:
    sent = [
        GeneratorReply(7, {}, torch.tensor([1, 0, 0]), {}, {}),
        GeneratorReply(2, {}, torch.tensor([0, 3, 5]), {}, {}),
    ]
    source = GeneratorMixture(sent, [Flat(0), Flat(1)], CPU)
    assert source.clients == [7, 2]
    assert source.class_counts.tolist() == [[1, 0, 0], [0, 3, 5]]


@pytest.mark.parametrize("conditional", [True, False])
def test_a_mixture_knows_whether_labels_are_heeded(conditional: bool) -> None:
    assert (
        GeneratorMixture(uploads(COUNTS), [Flat(0, conditional), Flat(1, conditional)], CPU).conditional is conditional
    )


def test_loading_takes_the_uploaded_weights_and_no_random_numbers() -> None:
    settings = Adversarial(latent_dim=4, width=2)
    sent, nets = real_generators(settings)
    before = torch.get_rng_state()
    loaded = UploadedGenerators(sent, settings, SHAPE)
    assert torch.equal(torch.get_rng_state(), before)
    noise, labels = torch.randn(3, 4), torch.tensor([0, 1, 2])
    for ours, theirs in zip(loaded, nets, strict=True):
        assert torch.equal(ours.eval()(noise, labels), theirs.eval()(noise, labels))


def test_the_generator_of_random_numbers_decides_the_images() -> None:
    settings = Adversarial(latent_dim=4, width=2)
    sent, _ = real_generators(settings)
    source = GeneratorMixture(sent, UploadedGenerators(sent, settings, SHAPE), CPU)
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


def of_brightness(brightness: Tensor) -> GeneratedImages:
    """Images that are each as bright as told, of owners 0, 1, 0, 1 and so on."""
    count = len(brightness)
    images = brightness[:, None, None, None].expand(count, *SHAPE)
    return GeneratedImages(images, torch.arange(count) % 2, torch.zeros(count, dtype=torch.long))


def pool(balanced: bool) -> TaughtPool:
    """Ninety images that the teacher takes for class 0 and ten for class 2; image i is i / 100 bright."""
    labels = torch.tensor([0] * 90 + [2] * 10)
    return TaughtPool(of_brightness(torch.arange(100.0) / 100), 2.0 * nn.functional.one_hot(labels, 3), balanced)


@pytest.mark.parametrize(("balanced", "share"), [(True, 0.5), (False, 0.1)])
def test_pseudo_labels_come_equally_often_or_as_they_are(balanced: bool, share: float) -> None:
    batches = TaughtBatches(pool(balanced), batch_size=100, steps=20, seed=0)
    labels = torch.cat([batch.teacher_logits.argmax(1) for batch in batches])
    assert (labels == 2).float().mean().item() == pytest.approx(share, abs=0.05)


def test_images_keep_what_the_teacher_said_of_them() -> None:
    for images, logits in TaughtBatches(pool(balanced=True), batch_size=16, steps=5, seed=0):
        number = (100 * images[:, 0, 0, 0]).round()
        assert torch.equal(logits.argmax(1) == 2, number >= 90)


def test_batches_are_repeatable_and_counted() -> None:
    batches = TaughtBatches(pool(balanced=False), batch_size=16, steps=5, seed=0)
    first, second = ([batch.images.sum().item() for batch in batches] for _ in range(2))
    assert first == second
    assert len(set(first)) == len(batches) == 5
    other = TaughtBatches(pool(balanced=False), batch_size=16, steps=5, seed=1)
    assert [batch.images.sum().item() for batch in other] != first


def test_ranks_share_one_global_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    (whole,) = TaughtBatches(pool(balanced=True), batch_size=10, steps=1, seed=0)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    parts = Counter()
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        (batch,) = TaughtBatches(pool(balanced=True), batch_size=10, steps=1, seed=0)
        assert len(batch.images) == 5
        parts.update(batch.images[:, 0, 0, 0].tolist())
    assert parts == Counter(whole.images[:, 0, 0, 0].tolist())


# how sure the teacher is


def unsure_pool(balanced: bool, min_confidence: float) -> TaughtPool:
    """A hundred images; image i is i / 100 bright, of class i % 3, and the teacher gives that class i / 100."""
    confidence = (torch.arange(100.0) / 100).clamp(0.4, 0.99)
    labels = torch.arange(100) % 3
    others = ((1 - confidence) / 2)[:, None].expand(100, 3)
    probabilities = others.scatter(1, labels[:, None], confidence[:, None])
    return TaughtPool(of_brightness(torch.arange(100.0) / 100), probabilities.log(), balanced, min_confidence)


def drawn_numbers(pool: TaughtPool) -> Counter[int]:
    batches = TaughtBatches(pool, batch_size=200, steps=20, seed=0)
    return Counter((100 * torch.cat([batch.images[:, 0, 0, 0] for batch in batches])).round().long().tolist())


@pytest.mark.parametrize("balanced", [True, False])
def test_images_that_the_teacher_is_unsure_of_are_never_drawn(balanced: bool) -> None:
    assert drawn_numbers(unsure_pool(balanced, 0.795)).keys() == set(range(80, 100))


@pytest.mark.parametrize("balanced", [True, False])
def test_at_zero_confidence_all_are_drawn(balanced: bool) -> None:
    assert drawn_numbers(unsure_pool(balanced, 0.0)).keys() == set(range(100))


@pytest.mark.parametrize("balanced", [True, False])
def test_where_the_teacher_is_sure_of_none_all_are_drawn(balanced: bool) -> None:
    assert drawn_numbers(unsure_pool(balanced, 0.995)) == drawn_numbers(unsure_pool(balanced, 0.0))


def test_pseudo_labels_are_balanced_among_those_that_are_left() -> None:
    """Above 0.895 there are four images of class 0 (90, 93, 96, 99) and three of each other class."""
    shares = Counter[int]()
    for number, times in drawn_numbers(unsure_pool(True, 0.895)).items():
        shares[number % 3] += times
    assert [shares[label] / 4000 for label in range(3)] == pytest.approx([1 / 3] * 3, abs=0.03)


def test_a_class_of_which_nothing_is_left_is_not_drawn() -> None:
    logits = torch.tensor([[9.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.0, 0.1, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 0.1]])
    pool = TaughtPool(of_brightness(torch.arange(5.0)), logits, balanced=True, min_confidence=0.9)
    (batch,) = TaughtBatches(pool, batch_size=400, steps=1, seed=0)
    assert set(batch.images.flatten().tolist()) == {0.0, 3.0}


# one pool after another


def pool_of(number: int) -> TaughtPool:
    """Forty images that are all as bright as the pool's number."""
    return TaughtPool(of_brightness(torch.full((40,), float(number))), torch.eye(3).repeat(14, 1)[:40], balanced=False)


class Kitchen:
    """Makes pools and notes when each was asked for."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def order(self, number: int) -> Callable[[], TaughtPool]:
        def make() -> TaughtPool:
            self.made.append(number)
            return pool_of(number)

        return make


def test_without_later_pools_one_generator_draws_all_batches_from_the_first() -> None:
    first = pool(balanced=True)
    random = torch.Generator().manual_seed(3)
    expected = [torch.multinomial(first.weights, 16, replacement=True, generator=random) for _ in range(5)]
    batches = list(TaughtBatches(first, batch_size=16, steps=5, seed=3))
    assert len(batches) == 5
    for batch, numbers in zip(batches, expected, strict=True):
        assert torch.equal(batch.images, first.images[numbers])
        assert torch.equal(batch.teacher_logits, first.teacher_logits[numbers])


@for_each(
    ("steps", "later", "turns"), [(9, 2, [3, 3, 3]), (8, 2, [3, 3, 2]), (5, 1, [3, 2]), (4, 0, [4]), (2, 1, [1, 1])]
)
def test_pools_share_the_steps_equally_and_in_order(steps: int, later: int, turns: list[int]) -> None:
    kitchen = Kitchen()
    makers = [kitchen.order(number) for number in range(1, later + 1)]
    batches = TaughtBatches(pool_of(0), batch_size=8, steps=steps, seed=0, later=makers)
    assert len(batches) == steps
    brightness = [batch.images.unique().tolist() for batch in batches]
    assert brightness == [[float(number)] for number, turn in enumerate(turns) for _ in range(turn)]


def test_later_pools_are_made_when_their_turn_comes() -> None:
    kitchen = Kitchen()
    makers = [kitchen.order(1), kitchen.order(2)]
    batches = iter(TaughtBatches(pool_of(0), batch_size=8, steps=6, seed=0, later=makers))
    made = []
    for _ in batches:
        made.append(list(kitchen.made))
    assert made == [[], [], [1], [1], [1, 2], [1, 2]]


def test_a_second_pass_repeats_the_first() -> None:
    kitchen = Kitchen()
    batches = TaughtBatches(pool(balanced=True), batch_size=8, steps=4, seed=0, later=[kitchen.order(7)])
    first, second = ([batch.images for batch in batches] for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
    assert kitchen.made == [7, 7]


@pytest.mark.parametrize("chunk", [1, 4, 512])
def test_a_teacher_is_asked_in_eval_mode_without_gradient(chunk: int) -> None:
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.BatchNorm1d(3)).train()
    images = torch.rand(10, *SHAPE)
    said = ask_teacher(teacher, images, chunk)
    assert not said.requires_grad
    assert not teacher.training
    assert torch.equal(teacher[2].running_mean, torch.zeros(3))
    torch.testing.assert_close(said, teacher[1](images.flatten(1)) / math.sqrt(1 + 1e-5))


# owners


def owner_nets(random: torch.Generator) -> dict[int, nn.Module]:
    """Three small classifiers that have an opinion on every class."""
    nets = {}
    for owner in range(3):
        nets[owner] = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4))
        nn.init.normal_(nets[owner][1].weight, std=2.0, generator=random)
    return nets


OWNED = torch.tensor([[5, 0, 2, 0], [0, 7, 0, 0], [1, 1, 1, 1]])


def of_owners(owners: list[int], random: torch.Generator) -> GeneratedImages:
    return GeneratedImages(
        torch.rand(len(owners), *SHAPE, generator=random), torch.tensor(owners), torch.zeros(len(owners)).long()
    )


def test_owners_judge_their_own_images_among_their_own_classes(random: torch.Generator) -> None:
    nets, source = owner_nets(random), of_owners([0, 0, 1, 2, 2, 0], random)
    said = ask_owners(nets, source, OWNED)
    assert said.shape == (6, 4)
    for image, owner, logits in zip(source.images, source.owners.tolist(), said, strict=True):
        held = OWNED[owner] > 0
        with torch.no_grad():
            alone = nets[owner].eval()(image[None])[0]
        torch.testing.assert_close(logits.softmax(-1)[held], alone[held].softmax(-1))
        assert logits.softmax(-1)[~held].sum() < 1e-9
        assert logits.isfinite().all()


def test_an_owner_without_images_is_not_asked(random: torch.Generator) -> None:
    nets = {0: owner_nets(random)[0]}
    assert ask_owners(nets, of_owners([0, 0], random), OWNED).shape == (2, 4)


class Stubborn(nn.Module):
    """Says the same of every image."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), -1)


@pytest.mark.parametrize(
    "logits",
    [[1.0, 9.0, 0.0, 9.0], [-40.0, 0.0, -50.0, 0.0], [-900.0, 0.0, -901.0, 900.0], [-80.0] * 4, [500.0] * 4],
    ids=["a little", "surely", "absurdly", "all low", "all high"],
)
def test_an_absent_class_never_wins_whatever_its_logit(logits: list[float], random: torch.Generator) -> None:
    said = ask_owners({0: Stubborn(logits)}, of_owners([0, 0], random), OWNED)
    expected = np.exp(np.array([logits[0], logits[2]]) - max(logits[0], logits[2]))
    np.testing.assert_allclose(said.softmax(-1)[0, [0, 2]], expected / expected.sum(), rtol=1e-4, atol=1e-9)
    assert said.isfinite().all()
    assert said.argmax(-1).tolist() == [0, 0]


def test_asking_owners_leaves_no_gradient_and_no_trace(random: torch.Generator) -> None:
    nets = owner_nets(random)
    before = [{name: tensor.clone() for name, tensor in net.state_dict().items()} for net in nets.values()]
    assert not ask_owners(nets, of_owners([0, 1, 2], random), OWNED).requires_grad
    assert all(
        torch.equal(net.state_dict()[name], tensor)
        for net, kept in zip(nets.values(), before, strict=True)
        for name, tensor in kept.items()
    )


def test_a_pool_made_in_the_midst_of_a_step_is_made_in_full_precision() -> None:
    precise: list[bool] = []

    def make() -> TaughtPool:
        precise.append(not torch.is_autocast_enabled("cpu"))
        return pool(balanced=False)

    with torch.autocast("cpu"):
        list(TaughtBatches(pool(balanced=False), batch_size=4, steps=6, seed=0, later=[make, make]))
    assert precise == [True, True]


def test_images_of_one_generator_show_what_its_owner_holds(random: torch.Generator) -> None:
    for row, counts in enumerate(COUNTS):
        images = mixture().draw_from(row, 50, random)
        assert images.shape == (50, *SHAPE)
        said = (10 * images[:, 0, 0, 0]).round().long() - 3 * row
        assert set(said.tolist()) == {label for label, count in enumerate(counts) if count}
