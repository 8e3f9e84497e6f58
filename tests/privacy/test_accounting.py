import math
import sys

import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from mosaic.errors import MosaicError
from mosaic.privacy import Privacy, Shares
from mosaic.privacy.accounting import Mechanism, calibrate, gaussian_epsilon, spent
from tests.cases import for_each

pytest.importorskip("dp_accounting", exc_type=ImportError)
DELTA = 1e-5


def closed_form(noise: float) -> float:
    """Epsilon of a Gaussian mechanism, from its definition by the two tails of its privacy loss."""

    def excess(epsilon: float) -> float:
        lost = norm.sf(epsilon * noise - 0.5 / noise) - math.exp(epsilon) * norm.sf(epsilon * noise + 0.5 / noise)
        return float(lost) - DELTA

    return float(brentq(excess, 1e-6, 60))


@for_each("noise", [0.6, 1.0, 4.0, 20.0])
def test_one_gaussian_costs_what_its_closed_form_says(noise: float) -> None:
    expected = closed_form(noise)
    assert gaussian_epsilon(noise, DELTA) == pytest.approx(expected, rel=1e-4)
    assert expected * 0.999 <= spent([Mechanism("one", noise)], DELTA) <= expected * 1.01


def test_two_gaussians_cost_what_one_with_their_precisions_costs() -> None:
    two = spent([Mechanism("a", 3.0), Mechanism("b", 4.0)], DELTA)
    assert two == pytest.approx(closed_form(2.4), rel=0.01)  # 1 / 9 + 1 / 16 = 1 / 2.4^2


def test_order_does_not_matter_and_steps_may_be_told_apart() -> None:
    sampled, plain = Mechanism("train", 1.5, 0.04, 100), Mechanism("counts", 4.0)
    both = spent([sampled, plain], DELTA)
    assert both == spent([plain, sampled], DELTA)
    parts = [Mechanism("train", 1.5, 0.04, 40), plain, Mechanism("train", 1.5, 0.04, 60)]
    assert spent(parts, DELTA) == both
    assert both > max(spent([sampled], DELTA), spent([plain], DELTA))


def test_subsampled_steps_cost_what_opacus_says() -> None:
    """Its test of the PRV accountant (Gopi et al. 2021) has 6.777 for 90 epochs at rate 0.04."""
    assert spent([Mechanism("train", 1.5, 0.04, 2250)], DELTA) == pytest.approx(6.777, rel=0.01)


def test_what_no_share_has_is_not_spent() -> None:
    found = calibrate(Privacy(3.0, DELTA, shares=Shares(0.05, 0.25, 0.2)))
    noise = sum(each.noise**-2 for each in found.values()) ** -0.5
    assert noise == pytest.approx(math.sqrt(2) * brentq(lambda each: closed_form(each) - 3.0, 0.5, 9), rel=0.01)


@for_each("epsilon, steps", [(0.5, 400), (0.1, 400), (0.1, 4000), (0.01, 400)])
def test_small_budgets_of_training_get_no_more_noise_than_they_need(epsilon: float, steps: int) -> None:
    """Many small steps come near one Gaussian (Bu et al. 2020), whose closed form is the reference."""
    privacy = Privacy(epsilon, DELTA, shares=Shares(0, 0, 0, 1), local_training="dp_sgd")
    one = brentq(lambda noise: closed_form(noise) - epsilon, 0.2 / epsilon, 20 / epsilon)
    needed = math.log1p(1 / (one * 0.05) ** 2 / steps) ** -0.5
    assert 0.99 * needed <= calibrate(privacy, steps)["training"].noise <= 1.02 * needed


def test_no_noise_promises_nothing_and_nothing_costs_nothing() -> None:
    assert spent([Mechanism("counts", 0.0)], DELTA) == math.inf
    assert spent([], DELTA) == 0


@for_each("epsilon", [0.1, 1.0, 10.0])
def test_the_split_never_exceeds_epsilon_and_wastes_little(epsilon: float) -> None:
    found = calibrate(Privacy(epsilon, DELTA))
    assert set(found) == {"counts", "means", "moments"}
    assert 0.99 * epsilon <= spent(found.values(), DELTA) <= epsilon
    precision = {name: mechanism.noise**-2 for name, mechanism in found.items()}
    assert precision["moments"] / sum(precision.values()) == pytest.approx(0.30)


@for_each(("epsilon", "delta"), [(1e-3, DELTA), (10.0, 1e-14), (1e-3, 1e-14), (10.0, 0.1)])
def test_the_smallest_budgets_get_so_much_noise_that_they_hold(epsilon: float, delta: float) -> None:
    training = Privacy(epsilon, delta, shares=Shares(0, 0, 0, 1), local_training="dp_sgd")
    for privacy, steps in ((Privacy(epsilon, delta), 0), (training, 3)):
        found = calibrate(privacy, steps)
        assert spent(found.values(), delta) <= epsilon
        assert all(math.isfinite(mechanism.noise) for mechanism in found.values())


def test_beside_a_large_delta_small_shares_of_a_small_budget_cost_nothing() -> None:
    privacy = Privacy(1e-3, 1e-2, shares=Shares(0.9, 0, 0, 0.1), local_training="dp_sgd")
    assert spent(calibrate(privacy, 3).values(), privacy.delta) <= privacy.epsilon


@for_each("shares", [Shares(0.05, 0.15, 0.5, 0.3), Shares(0, 0, 0, 1)])
def test_with_training_the_split_never_exceeds_epsilon_either(shares: Shares) -> None:
    privacy = Privacy(3.0, DELTA, shares=shares, local_training="dp_sgd")
    found = calibrate(privacy, 100)
    assert 0.98 * privacy.epsilon <= spent(found.values(), DELTA) <= privacy.epsilon
    assert (found["training"].rate, found["training"].steps) == (0.05, 100)


@for_each(
    "wrong, named",
    [
        ({"epsilon": 0.0}, "privacy.epsilon"),
        ({"epsilon": -1.0}, "privacy.epsilon"),
        ({"epsilon": float("nan")}, "privacy.epsilon"),
        ({"epsilon": 1e-8}, "privacy.epsilon"),
        ({"epsilon": 1.0, "delta": 1e-30}, "privacy.delta"),
        ({"epsilon": 1.0, "delta": 0.0}, "privacy.delta"),
        ({"epsilon": 1.0, "delta": 0.5}, "privacy.delta"),
        ({"epsilon": 1.0, "sampling_rate": 0.0}, "privacy.sampling_rate"),
        ({"epsilon": 1.0, "local_training": "dp_sgd"}, "privacy.shares.training"),
        ({"epsilon": 1.0, "shares": Shares(0.1, 0.1, 0.1, 0.5)}, "privacy.shares.training"),
        (
            {"epsilon": 1.0, "shares": Shares(0, 0, 0, 1), "local_training": "dp_sgd", "unit": "patient"},
            "privacy.unit",
        ),
    ],
)
def test_a_budget_that_cannot_be_meant_is_refused_by_name(wrong: dict, named: str) -> None:
    with pytest.raises(MosaicError, match=named):
        Privacy(**wrong)


def test_shares_beyond_the_budget_are_refused() -> None:
    with pytest.raises(MosaicError, match=r"privacy\.shares: .* 1\.1"):
        Shares(counts=0.15, means=0.65)


def test_delta_must_be_below_one_over_the_images() -> None:
    Privacy(1.0, 1e-5).check_images(99_999)
    with pytest.raises(MosaicError, match=r"privacy\.delta.*1 / 100000"):
        Privacy(1.0, 1e-5).check_images(100_000)


def test_without_the_package_nothing_is_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(MosaicError, match=r"pip install dp-accounting"):
        spent([Mechanism("counts", 3.1234)], DELTA)
