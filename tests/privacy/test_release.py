import math

import numpy as np
import pytest
import torch
from scipy.stats import beta, kstest
from torch import Tensor

from mosaic.data import SklearnDigits
from mosaic.nets.inference import to_pixels
from mosaic.privacy.accounting import Mechanism, gaussian_epsilon
from mosaic.privacy.noise import SecretNoise
from mosaic.privacy.release import (
    GRID,
    PublicFeatures,
    Release,
    noisy,
    on_grid,
    packed,
    unit_weights,
    unpacked,
    whole_sums,
)
from tests.cases import for_each

DIGITS = SklearnDigits().load().train
FEATURES = PublicFeatures((1, 8, 8), 6, (0.3,), (0.38,))
SECRET = bytes(range(32))


def sums_of(kept: Tensor, labels: Tensor = DIGITS.labels, units: Tensor | None = None) -> Release:
    weights = unit_weights(torch.arange(len(kept)) if units is None else units)
    return whole_sums(FEATURES.encode(to_pixels(DIGITS.pixels[kept])), labels[kept], weights, 10)


def test_one_image_changes_counts_by_exactly_one_and_the_others_by_at_most_one() -> None:
    every = torch.arange(200)
    whole = sums_of(every)
    largest = torch.zeros(3)
    for left_out in range(0, 200, 5):
        rest = sums_of(every[every != left_out])
        changes = torch.tensor([float((one - other).norm()) / GRID for one, other in zip(whole, rest, strict=True)])
        assert changes[0] == 1
        assert (changes <= 1).all()
        largest = torch.maximum(largest, changes)
    assert (largest > 0.999).all(), "clipping is at work, or the bound would not be tight"


@for_each("mean, std", [((0.5,), (1e-200,)), ((0.5,), (0.0,)), ((float("nan"),), (0.3,)), ((0.5,), (float("inf"),))])
def test_features_that_would_be_no_numbers_are_refused(mean: tuple[float], std: tuple[float]) -> None:
    with pytest.raises(ValueError, match="expected a finite mean and a positive standard deviation"):
        PublicFeatures((1, 8, 8), 4, mean, std)


def test_what_is_no_number_counts_nothing() -> None:
    given = torch.tensor([[torch.nan, torch.inf, -torch.inf, 0.5]], dtype=torch.double)
    assert on_grid(given)[0].tolist() == [0, 0, 0, GRID // 2 - 1]


def test_an_image_as_large_as_can_be_is_clipped() -> None:
    loud = FEATURES.encode(torch.cat([torch.ones(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)]).repeat(3, 1, 1, 1))
    assert loud.norm(dim=1).max() <= 1 + 1e-12
    exact = whole_sums(loud[:1], torch.tensor([3]), torch.ones(1).double(), 10)
    assert all(float(part.norm()) <= GRID for part in exact)


def test_a_group_weighs_as_much_as_one_image_however_many_it_has() -> None:
    units = torch.tensor([9] * 50 + list(range(10, 60)))
    whole, rest = sums_of(torch.arange(100), units=units), sums_of(torch.arange(50, 100))
    for one, other in zip(whole, rest, strict=True):
        assert 0.1 * GRID < float((one - other).norm()) <= GRID


def test_sums_do_not_depend_on_the_order() -> None:
    shuffled = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    for one, other in zip(sums_of(torch.arange(200)), sums_of(shuffled), strict=True):
        assert torch.equal(one, other)


def test_sums_are_those_of_a_loop() -> None:
    kept = torch.arange(30)
    features = FEATURES.encode(to_pixels(DIGITS.pixels[kept])).numpy()
    found = sums_of(kept)
    for label in range(10):
        mine = features[DIGITS.labels[kept].numpy() == label]
        np.testing.assert_allclose(found.sums[label] / GRID, mine.sum(0), atol=30 / GRID)
        moments = sum((np.outer(row, row) for row in mine), np.zeros((36, 36)))
        np.testing.assert_allclose(unpacked(found.moments / GRID)[label], moments, atol=30 / GRID)


def test_packing_keeps_norms_and_can_be_undone(random: torch.Generator) -> None:
    halves = torch.randn(3, 5, 5, generator=random).double()
    matrices = halves + halves.mT
    torch.testing.assert_close(packed(matrices).norm(dim=1), matrices.flatten(1).norm(dim=1))
    torch.testing.assert_close(unpacked(packed(matrices)), matrices)


def test_features_can_be_turned_back_where_nothing_is_clipped() -> None:
    faint = 0.3 + 0.02 * to_pixels(DIGITS.pixels[:5])
    whole = PublicFeatures((1, 8, 8), 8, (0.3,), (0.38,))
    found = whole.mean_coefficients(whole.encode(faint))
    torch.testing.assert_close(whole._basis.synthesise(found), faint.double())
    assert torch.linalg.matrix_rank(whole.directions(torch.eye(whole.dim).double())) == whole.dim


def test_noise_is_normal_whole_and_the_same_for_the_same_secret() -> None:
    drawn = SecretNoise(SECRET).whole_gaussian("a", (20000,), 1000.0)
    assert torch.equal(drawn, drawn.round())
    assert kstest((drawn / 1000).numpy(), "norm").pvalue > 0.01
    assert torch.equal(drawn, SecretNoise(SECRET).whole_gaussian("a", (20000,), 1000.0))
    others = SecretNoise(SECRET).gaussian("b", (20000,)), SecretNoise(bytes(32)).gaussian("a", (20000,))
    for other in others:
        assert abs(float(torch.corrcoef(torch.stack([drawn, other]))[0, 1])) < 0.03
    assert kstest(SecretNoise(SECRET).uniform("c", 20000).numpy(), "uniform").pvalue > 0.01


def test_no_stream_is_used_twice() -> None:
    noise = SecretNoise(SECRET)
    noise.gaussian("counts", (3,))
    with pytest.raises(RuntimeError, match="'counts' was used before"):
        noise.uniform("counts", 3)


def test_every_part_has_noise_of_its_own_size() -> None:
    sizes = {"counts": 2.0, "means": 1.0, "moments": 0.5}
    exact = sums_of(torch.arange(100))
    found = noisy(exact, {name: Mechanism(name, size) for name, size in sizes.items()}, SecretNoise(SECRET))
    for size, part, truth in zip(sizes.values(), found, exact, strict=True):
        around = part.double() - truth / GRID
        assert float(around.square().mean().sqrt()) == pytest.approx(size, rel=4 / math.sqrt(2 * around.numel()))
    nothing = noisy(exact, {}, SecretNoise(SECRET))
    assert all(not part.any() for part in nothing)


@for_each("share, caught", [(1.0, False), (1 / 3, True)])
def test_an_empirical_lower_bound_is_below_epsilon_and_catches_too_little_noise(share: float, caught: bool) -> None:
    """Tell one image from none by what is released of it, as Jagielski et al. 2020 (arXiv 2006.07709) do."""
    noise, delta, tries = 3.0, 1e-5, 20000
    image = sums_of(torch.tensor([0])).sums[int(DIGITS.labels[0])]
    drawn = SecretNoise(SECRET).whole_gaussian("all", (2 * tries, len(image)), share * noise * GRID) / GRID
    drawn[tries:] += image / GRID
    scores = (drawn @ image / image.norm()).numpy()
    threshold = np.quantile(scores[:tries], 0.995)
    without, with_it = (int((part > threshold).sum()) for part in (scores[:tries], scores[tries:]))
    lowest, highest = beta.ppf(0.005, with_it, tries - with_it + 1), beta.ppf(0.995, without + 1, tries - without)
    bound = math.log((lowest - delta) / highest)
    assert (bound > gaussian_epsilon(noise, delta)) == caught
    assert bound > 0.1, "an attack that cannot win proves nothing"
