import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from torch import Tensor, nn

from mosaic.client import generator_quality
from mosaic.client.generator_quality import class_coverage, measure_generator, nearest_neighbour_ratio, require_images
from mosaic.errors import MosaicError
from mosaic.nets import Blueprint
from mosaic.nets.classifier import Classifier
from mosaic.nets.dcgan import Generator
from mosaic.seeding import seeded
from tests.cases import for_each

CPU = torch.device("cpu")
SHAPE = (1, 8, 8)


class Repeating(nn.Module):
    """A 'generator' that shows given pictures, one of each wanted class."""

    latent_dim, conditional = 3, True

    def __init__(self, pictures: Tensor) -> None:
        super().__init__()
        self.register_buffer("pictures", pictures.float() / 255)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        return self.pictures[labels]


class Choosing(Repeating):
    """A 'generator' that shows any of its pictures, whatever is wanted."""

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        return self.pictures[(noise[:, 0] * 1e6).long() % len(self.pictures)]


class BySlot(Classifier):
    """Sees class c where pixel c of the first row is the brightest."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(SHAPE, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return images[:, 0, 0, : self.num_classes]


def pictures(random: torch.Generator, count: int, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=random)


def one_of_each_class(num_classes: int) -> Tensor:
    images = torch.zeros(num_classes, *SHAPE, dtype=torch.uint8)
    images[range(num_classes), 0, 0, range(num_classes)] = 255
    return images


def from_scipy(generated: Tensor, training: Tensor, held_out: Tensor) -> float:
    tree = cKDTree(training.flatten(1).double().numpy())
    made, usual = (np.median(tree.query(x.flatten(1).double().numpy())[0]) for x in (generated, held_out))
    return made / usual


@for_each(
    ("predicted", "counts", "coverage"),
    [
        ([0, 1], [5, 5], 1.0),
        ([0, 0, 0, 1], [30, 10], 1.0),
        ([2, 2], [7, 1, 0], 0.0),
        ([0, 0], [1, 1, 1, 1], 0.25),
        ([0, 1, 2, 3], [4, 0, 0, 0], 0.25),
        ([1, 2, 2, 2], [2, 1, 1], 0.5),
    ],
)
def test_coverage_by_hand(predicted: list[int], counts: list[int], coverage: float) -> None:
    assert class_coverage(torch.tensor(predicted), torch.tensor(counts)) == coverage


@for_each("seed", range(20))
def test_coverage_is_one_minus_total_variation_and_never_leaves_its_bounds(seed: int) -> None:
    random = np.random.default_rng(seed)
    predicted, counts = random.integers(0, 7, 1 + seed), random.integers(0, 1000, 7) + np.eye(7, dtype=int)[seed % 7]
    shares = np.bincount(predicted, minlength=7) / len(predicted), counts / counts.sum()
    coverage = class_coverage(torch.from_numpy(predicted), torch.from_numpy(counts))
    assert coverage == pytest.approx(1 - np.abs(shares[0] - shares[1]).sum() / 2)
    assert 0 <= coverage <= 1


def test_coverage_does_not_depend_on_the_order_of_images_or_classes(random: torch.Generator) -> None:
    predicted, counts = torch.randint(0, 5, (50,), generator=random), torch.tensor([3, 0, 9, 1, 4])
    moved = torch.tensor([2, 4, 1, 0, 3])  # class c becomes moved[c]
    renamed = torch.empty_like(counts).scatter(0, moved, counts)
    assert class_coverage(predicted, counts) == class_coverage(moved[predicted].flip(0), renamed)


@pytest.mark.parametrize(("predicted", "counts"), [([], [1, 1]), ([0], [0, 0]), ([2], [1, 1])])
def test_coverage_of_nothing_is_refused(predicted: list[int], counts: list[int]) -> None:
    with pytest.raises(ValueError, match="class_coverage: expected at least one prediction"):
        class_coverage(torch.tensor(predicted, dtype=torch.long), torch.tensor(counts))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7), (1, 1, 2)])
@pytest.mark.parametrize(("made", "held"), [(1, 1), (40, 31), (7, 60)])
def test_the_ratio_is_that_of_a_search_tree(random: torch.Generator, shape, made: int, held: int) -> None:
    parts = [torch.rand(n, *shape, generator=random) for n in (made, 90, held)]
    assert nearest_neighbour_ratio(*parts) == pytest.approx(from_scipy(*parts), rel=1e-5)


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_the_chunk_changes_nothing(random: torch.Generator, chunk: int) -> None:
    parts = [torch.rand(n, 3, 6, 6, generator=random) for n in (33, 65, 20)]
    whole = nearest_neighbour_ratio(*parts, chunk=100)
    assert nearest_neighbour_ratio(*parts, chunk=chunk) == pytest.approx(whole, rel=1e-6)


def test_the_order_of_images_changes_nothing(random: torch.Generator) -> None:
    parts = [torch.rand(n, *SHAPE, generator=random) for n in (9, 30, 8)]
    shuffled = [part[torch.randperm(len(part), generator=random)] for part in parts]
    assert nearest_neighbour_ratio(*shuffled) == pytest.approx(nearest_neighbour_ratio(*parts), rel=1e-6)


def test_copies_of_training_images_give_exactly_zero(random: torch.Generator) -> None:
    training = torch.rand(300, 3, 32, 32, generator=random)  # a product of matrices would say 0.02
    assert nearest_neighbour_ratio(training[:50], training, torch.rand(9, 3, 32, 32, generator=random)) == 0


def test_twice_as_far_as_unseen_images_gives_two() -> None:
    black, grey, white = (torch.full((3, *SHAPE), value) for value in (0.0, 0.5, 1.0))
    assert nearest_neighbour_ratio(white, black, grey) == pytest.approx(2)


def test_there_is_no_ratio_without_unseen_images_at_a_distance(random: torch.Generator) -> None:
    images = torch.rand(5, *SHAPE, generator=random)
    assert nearest_neighbour_ratio(images, images, images[:0]) is None
    assert nearest_neighbour_ratio(images, images, images) is None
    assert nearest_neighbour_ratio(torch.rand(5, *SHAPE, generator=random), images, images) is None


def test_pixels_that_are_not_finite_give_no_ratio(random: torch.Generator) -> None:
    images = torch.rand(5, *SHAPE, generator=random)
    assert nearest_neighbour_ratio(images * math.nan, images, torch.rand(5, *SHAPE, generator=random)) is None


def test_a_generator_that_repeats_training_images_has_ratio_zero_and_full_coverage(random: torch.Generator) -> None:
    training, counts = one_of_each_class(3), torch.tensor([10, 30, 0])
    quality = measure_generator(Repeating(training), BySlot(3), training, counts, pictures(random, 20), CPU, seed=0)
    assert quality["nearest_neighbour_ratio"] == 0
    assert quality["coverage"] == pytest.approx(1, abs=0.08)  # 512 labels drawn by chance


def test_a_generator_of_real_unseen_images_has_a_ratio_of_about_one(random: torch.Generator) -> None:
    real = pictures(random, 600)
    quality = measure_generator(
        Choosing(real[:200]), BySlot(3), real[200:400], torch.tensor([1, 1, 1]), real[400:], CPU, seed=0
    )
    assert quality["nearest_neighbour_ratio"] == pytest.approx(1, abs=0.03)


def test_a_generator_of_one_class_covers_its_share(random: torch.Generator) -> None:
    only = one_of_each_class(4)[[2, 2, 2, 2]]
    quality = measure_generator(
        Repeating(only), BySlot(4), only, torch.tensor([6, 0, 3, 3]), pictures(random, 5), CPU, seed=0
    )
    assert quality["coverage"] == 0.25


def test_without_validation_images_the_ratio_is_left_out(random: torch.Generator) -> None:
    training = pictures(random, 9)
    quality = measure_generator(
        Repeating(training), BySlot(3), training, torch.tensor([3, 3, 3]), training[:0], CPU, seed=0
    )
    assert quality.keys() == {"coverage"}


def test_only_a_sample_is_compared(random: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator_quality, "MOST_TRAINING_IMAGES", 30)
    monkeypatch.setattr(generator_quality, "MOST_HELD_OUT_IMAGES", 20)
    compared = []
    monkeypatch.setattr(generator_quality, "nearest_neighbour_ratio", lambda *parts: compared.append(parts))
    training, unseen = pictures(random, 100), pictures(random, 50)
    measure_generator(Repeating(training), BySlot(3), training, torch.tensor([1, 1, 1]), unseen, CPU, 0, count=7)
    assert [len(part) for part in compared[0]] == [7, 30, 20]
    for part, source in zip(compared[0][1:], (training, unseen), strict=True):
        known = {tuple(image.flatten().tolist()) for image in source}
        sampled = {tuple((255 * image).round().int().flatten().tolist()) for image in part}
        assert len(sampled) == len(part)
        assert sampled <= known


@pytest.mark.parametrize("conditional", [True, False])
def test_networks_and_random_streams_are_left_as_they_were(
    random: torch.Generator, blueprint: Blueprint, conditional: bool
) -> None:
    with seeded(1):
        generator = Generator(SHAPE, 3, latent_dim=4, width=2, conditional=conditional)
    guide = blueprint.build(blueprint.initial(seed=0))
    guide.body.eval()  # a mixture of modes
    nets = (generator, guide)
    modes = [module.training for net in nets for module in net.modules()]
    states = [{name: tensor.clone() for name, tensor in net.state_dict().items()} for net in nets]
    before = torch.get_rng_state()
    counts, training, unseen = torch.tensor([5, 0, 2]), pictures(random, 7), pictures(random, 3)
    first = measure_generator(generator, guide, training, counts, unseen, CPU, seed=3, count=20)
    assert first == measure_generator(generator, guide, training, counts, unseen, CPU, seed=3, count=20)
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for net in nets for module in net.modules()] == modes
    for net, state in zip(nets, states, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert 0 <= first["coverage"] <= 1
    assert 0 < first["nearest_neighbour_ratio"] < math.inf


def test_labels_are_drawn_from_the_counts_alone(random: torch.Generator) -> None:
    wanted: list[Tensor] = []

    class Noting(Repeating):
        def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
            wanted.append(labels)
            return super().forward(noise, labels)

    training = one_of_each_class(4)
    measure_generator(Noting(training), BySlot(4), training, torch.tensor([0, 10, 0, 30]), training[:0], CPU, seed=0)
    drawn = torch.cat(wanted).bincount(minlength=4)
    assert drawn[[0, 2]].tolist() == [0, 0]
    assert drawn.sum() == 512
    assert drawn[3] / 512 == pytest.approx(0.75, abs=0.06)


def test_a_measurement_depends_on_its_seed(random: torch.Generator, blueprint: Blueprint) -> None:
    with seeded(1):
        generator = Generator(SHAPE, 3, latent_dim=4, width=2)
    guide, counts = blueprint.build(blueprint.initial(seed=0)), torch.tensor([3, 3, 3])
    training, unseen = pictures(random, 9), pictures(random, 9)
    first, other = (
        measure_generator(generator, guide, training, counts, unseen, CPU, seed, count=9) for seed in (0, 1)
    )
    assert first["nearest_neighbour_ratio"] != other["nearest_neighbour_ratio"]


@for_each(
    ("spoil", "told"),
    [
        (lambda images: images * 255, r"with pixels in \[0, 1\], got shape \(1, 8, 8\) with pixels from 0 to 255"),
        (lambda images: images - 1, "pixels from -1 to"),
        (lambda images: images * torch.nan, "pixels from nan to nan"),
        (lambda images: images[:, :, 1:], r"got shape \(1, 7, 8\)"),
    ],
    ids=["bytes", "centred", "nan", "cut"],
)
def test_what_is_no_image_is_refused(spoil: Callable[[Tensor], Tensor], told: str) -> None:
    class Spoilt(Repeating):
        def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
            return spoil(super().forward(noise, labels))

    own = one_of_each_class(3)
    with pytest.raises(MosaicError, match=told):
        require_images(Spoilt(own), SHAPE, torch.tensor([1, 1, 1]), CPU)
