import math

import pytest
import torch
from torch import Tensor

from mosaic.data import SklearnDigits
from mosaic.generation import ClassGaussians
from mosaic.nets.inference import to_pixels
from mosaic.privacy.accounting import Mechanism
from mosaic.privacy.noise import SecretNoise
from mosaic.privacy.release import PublicFeatures, Release, noisy, whole_sums
from mosaic.server.released import _standing_out, _with_diagonal, deviations_of, fit_released

DIGITS = SklearnDigits().load().train
FEATURES = PublicFeatures((1, 8, 8), 4, (0.3,), (0.38,))
ENCODED = FEATURES.encode(to_pixels(DIGITS.pixels))


def total(noise: float, kept: Tensor | None = None) -> tuple[Release, dict[str, float]]:
    kept = torch.arange(len(DIGITS)) if kept is None else kept
    exact = whole_sums(ENCODED[kept], DIGITS.labels[kept], torch.ones(len(kept)).double(), 10)
    mechanisms = {name: Mechanism(name, noise) for name in ("counts", "means", "moments")}
    found = noisy(exact, mechanisms, SecretNoise(bytes(32)))
    return Release(*(part.double() for part in found)), deviations_of(mechanisms, 1)


def fitted(noise: float, kept: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Means, covariances and counts of a generator."""
    made = fit_released(*total(noise, kept), FEATURES, ClassGaussians(coefficients=4, shrinkage=0.0), (1, 8, 8))
    assert made is not None
    generator, counts = made
    factors = generator.directions.double() @ generator.own.double()
    return generator.mean.double(), factors @ factors.mT, counts


def test_without_noise_gaussians_are_those_of_the_encoded_images() -> None:
    mean, covariance, counts = fitted(0.0)
    scale = FEATURES.directions(torch.eye(16).double())
    for label in range(10):
        mine = ENCODED[DIGITS.labels == label]
        torch.testing.assert_close(mean[label], FEATURES.mean_coefficients(mine.mean(0)), atol=5e-3, rtol=0)
        torch.testing.assert_close(covariance[label], scale @ mine.T.cov(correction=0) @ scale, atol=5e-3, rtol=0.01)
        assert counts[label] == len(mine)


def test_classes_that_do_not_stand_out_of_the_noise_are_left_out() -> None:
    few = torch.cat([(DIGITS.labels == 3).nonzero()[:80], (DIGITS.labels == 5).nonzero()[:2]]).squeeze(1)
    assert fitted(0.3, few)[2].nonzero().flatten().tolist() == [3, 5]
    assert fit_released(*total(0.3, few[:0]), FEATURES, ClassGaussians(coefficients=4), (1, 8, 8)) is None


def test_noise_draws_means_together_and_widens_what_is_left() -> None:
    """What is known less well is drawn less far apart, and more variably."""
    sharp, blurred = fitted(0.1), fitted(15.0)
    spread = [float(mean.var(0).sum()) for mean, _, _ in (sharp, blurred)]
    assert spread[1] < 0.9 * spread[0]
    assert blurred[1].diagonal(dim1=1, dim2=2).sum(1).mean() > sharp[1].diagonal(dim1=1, dim2=2).sum(1).mean()


def test_pure_noise_leaves_nothing_and_a_spike_comes_back(random: torch.Generator) -> None:
    """Noise makes an eigenvalue of 10 look larger by edge^2 / 40; the reference is a plain simulation."""
    raw = torch.randn(60, 60, generator=random).double()
    noise = (raw + raw.mT) / 2  # deviation 1 on the diagonal and sqrt(1/2) beside it: 1 as packed
    spike = torch.zeros(60, 60).double()
    spike[7, 7] = 30.0
    assert not _standing_out(noise, 1.1).any()
    found = _standing_out(noise + spike, 1.0)
    assert float(found[7, 7]) == pytest.approx(30, abs=3)
    assert float(found.norm()) == pytest.approx(30, abs=3)
    assert float(_standing_out(noise - spike, 1.0)[7, 7]) == pytest.approx(-30, abs=3)
    assert not _standing_out(noise - spike, 1.0, negative=False).any()
    assert math.isclose(float(torch.linalg.eigvalsh(noise).max()), math.sqrt(120), rel_tol=0.15)


def test_covariances_are_positive_whatever_the_noise() -> None:
    for each in fitted(8.0)[1]:
        assert torch.linalg.eigvalsh(each).min() > -1e-6


def test_shrinkage_draws_covariances_together_by_the_number_of_images() -> None:
    shrunk = ClassGaussians(coefficients=4, shrinkage=1.0)
    made = fit_released(*total(0.0), FEATURES, shrunk, (1, 8, 8))
    assert made is not None
    factors = made[0].directions.double() @ made[0].own.double()
    scale, dim = FEATURES.directions(torch.eye(16).double()), 16
    own = [ENCODED[DIGITS.labels == label].T.cov(correction=0) for label in range(10)]
    sizes = DIGITS.labels.bincount().double()
    common = sum(size * each for size, each in zip(sizes, own, strict=True)) / sizes.sum()
    for label, (size, each) in enumerate(zip(sizes, own, strict=True)):
        expected = common + size / (size + dim) * (each - common)
        torch.testing.assert_close((factors @ factors.mT)[label], scale @ expected @ scale, atol=5e-3, rtol=0.01)


def test_a_class_that_could_be_noise_alone_is_left_out() -> None:
    images = (DIGITS.labels == 3).nonzero().squeeze(1)[:60]
    few = torch.cat([images, (DIGITS.labels == 5).nonzero().squeeze(1)[:2]])
    deviations = dict.fromkeys(("counts", "means", "moments"), 3.0)
    made = fit_released(total(0.0, few)[0], deviations, FEATURES, ClassGaussians(coefficients=4), (1, 8, 8))
    assert made is not None
    assert made[1].nonzero().flatten().tolist() == [3], "two images at a noise of three"


def test_variances_stay_where_their_covariances_are_noise() -> None:
    torch.testing.assert_close(_with_diagonal(torch.eye(9).double(), 5.0), torch.eye(9).double())
