from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from mosaic.algorithms import Mosaic
from mosaic.errors import MosaicError
from mosaic.generation import Adversarial, Fitted, Generation, Mixture, OwnImages
from mosaic.messages import GeneratorReply
from mosaic.nets import Blueprint, Generator
from mosaic.server.generators import GeneratorMixture, uploaded_generator
from tests.small_runs import same_models

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
    return GeneratorMixture(uploads(COUNTS), lambda upload: Flat(upload.client), CPU, balance)


def test_every_image_comes_with_its_own_owner_and_label(
    random: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mosaic.server.generators._AT_A_TIME", 7)
    source = mixture().draw(300, random)
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


def real_mixture(sent: list[GeneratorReply], settings: Adversarial) -> GeneratorMixture:
    return GeneratorMixture(sent, partial(uploaded_generator, generation=settings, image_shape=SHAPE), CPU)


@pytest.mark.parametrize("conditional", [True, False])
def test_images_lie_in_the_range_of_pixels_and_carry_no_gradient(random: torch.Generator, conditional: bool) -> None:
    settings = Adversarial(latent_dim=4, width=2, conditional=conditional)
    sent, _ = real_generators(settings)
    source = real_mixture(sent, settings).draw(20, random)
    assert source.images.shape == (20, *SHAPE)
    assert 0 <= source.images.min() < source.images.max() <= 1
    assert not source.images.requires_grad


def test_drawing_leaves_the_uploads_as_they_were(random: torch.Generator) -> None:
    settings = Adversarial(latent_dim=4, width=2)
    sent, _ = real_generators(settings)
    before = [{name: tensor.clone() for name, tensor in reply.generator.items()} for reply in sent]
    real_mixture(sent, settings).draw(20, random)
    for reply, weights in zip(sent, before, strict=True):
        assert all(torch.equal(tensor, weights[name]) for name, tensor in reply.generator.items())


def test_a_mixture_knows_whose_generators_it_has() -> None:
    sent = [
        GeneratorReply(7, {}, torch.tensor([1, 0, 0]), {}, {}),
        GeneratorReply(2, {}, torch.tensor([0, 3, 5]), {}, {}),
    ]
    source = GeneratorMixture(sent, lambda _: Flat(0), CPU)
    assert source.clients == [7, 2]
    assert source.class_counts.tolist() == [[1, 0, 0], [0, 3, 5]]


@pytest.mark.parametrize("conditional", [True, False])
def test_a_mixture_knows_whether_labels_are_heeded(conditional: bool) -> None:
    assert GeneratorMixture(uploads(COUNTS), lambda _: Flat(0, conditional), CPU).conditional is conditional


def test_loading_takes_the_uploaded_weights_and_no_random_numbers() -> None:
    settings = Adversarial(latent_dim=4, width=2)
    sent, nets = real_generators(settings)
    before = torch.get_rng_state()
    loaded = [uploaded_generator(upload, settings, SHAPE) for upload in sent]
    assert torch.equal(torch.get_rng_state(), before)
    noise, labels = torch.randn(3, 4), torch.tensor([0, 1, 2])
    for ours, theirs in zip(loaded, nets, strict=True):
        assert torch.equal(ours.eval()(noise, labels), theirs.eval()(noise, labels))


def test_the_generator_of_random_numbers_decides_the_images() -> None:
    settings = Adversarial(latent_dim=4, width=2)
    sent, _ = real_generators(settings)
    source = real_mixture(sent, settings)
    first, again, other = (source.draw(9, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert not torch.equal(first.images, other.images)


def test_a_mixture_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one generator"):
        GeneratorMixture([], lambda _: Flat(0), CPU)


def test_images_of_one_generator_show_what_its_owner_holds(random: torch.Generator) -> None:
    for row, counts in enumerate(COUNTS):
        images, _, labels = mixture().draw_from(row, 50, random)
        assert images.shape == (50, *SHAPE)
        said = (10 * images[:, 0, 0, 0]).round().long() - 3 * row
        assert set(said.tolist()) == {label for label, count in enumerate(counts) if count}
        assert torch.equal(said, labels)


def flat(shape: Any, counts: Tensor) -> Flat:
    return Flat(0)


class Factor(Flat):
    """Needs a variance to draw, which a blank one has not."""

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        return torch.linalg.cholesky(torch.zeros(2, 2)) + noise


class Uncounted(Generation):
    """Builds what the test says, and does not say from how many images it learns a class."""

    conditional = True

    def __init__(self, build: Callable[..., Any]) -> None:
        self.builds = build

    def build(self, image_shape: Any, class_counts: Tensor) -> Any:
        return self.builds(image_shape, class_counts)

    def fit(self, own: OwnImages) -> Fitted:
        raise AssertionError("nobody has been asked")


class Own(Uncounted):
    """A kind of generator of one's own."""

    min_count = 2


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda shape, counts: Flat(0)[1], "got one that fails: TypeError"),
        (lambda shape, counts: torch.nn.Identity(), "no attribute 'latent_dim'"),
        (lambda shape, counts: None, "'NoneType' object has no attribute 'eval'"),
    ],
)
def test_a_generator_of_ones_own_is_tried_before_anybody_trains(build: Any, told: str, blueprint: Blueprint) -> None:
    with pytest.raises(MosaicError, match=f"algorithm.generation: expected Own.build to return .*{told}"):
        Mosaic(generation=Own(build)).check_network(same_models(blueprint, 2))


def test_a_blank_generator_makes_images_of_the_federations_shape(blueprint: Blueprint) -> None:
    pool = same_models(blueprint, 2)
    Mosaic(generation=Own(flat)).check_network(pool)
    Mosaic(generation=Own(lambda shape, counts: Flat(10 // (counts[0] // 2)))).check_network(pool)
    Mosaic(generation=Own(lambda shape, counts: Factor(0))).check_network(pool)
    wide = Blueprint(blueprint.factory, (1, 8, 9), blueprint.num_classes, blueprint.mean, blueprint.std)
    with pytest.raises(MosaicError, match=r"of shape \(2, 1, 8, 9\) for two labels, got shape \(2, 1, 8, 8\)"):
        Mosaic(generation=Own(flat), new_head=False).check_network(same_models(wide, 2))


def test_what_a_generation_has_to_say_is_asked_at_once() -> None:
    told = "expected Uncounted to have min_count, .* got none: set it"
    with pytest.raises(MosaicError, match=f"algorithm.generation: {told}"):
        Mosaic(generation=Uncounted(flat))
    with pytest.raises(MosaicError, match=rf"algorithm.generation.parts\[1\]: {told}"):
        Mixture([Adversarial(), Uncounted(flat)])
