"""Compute the epsilon that mechanisms cost together, and the noise that a budget needs.

Gaussian mechanisms are composed exactly, and with Poisson-subsampled ones by privacy loss distributions, which
dp-accounting never estimates too low (Koskela et al. 2020, arXiv 1906.03049; Doroshenko et al. 2022, arXiv 2207.04380).
Nothing is claimed for clients that are drawn, nor for batches that are shuffled.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from scipy.special import log_ndtr

from mosaic.errors import MosaicError
from mosaic.privacy.settings import Privacy

COUNTS, MEANS, MOMENTS, TRAINING = "counts", "means", "moments", "training"
RELEASED = (COUNTS, MEANS, MOMENTS)
_FINENESS = 2e-3
"""Step of a privacy loss distribution where epsilon is 1 or more; finer where it is less."""
_TOLERANCE = 3e-3
"""Share of a cost that calibration may leave unspent."""
_LEAST_TRAINING_NOISE = 0.5
"""Training with less buys nothing: plans of so few steps leave a part of epsilon unspent."""


@dataclass(frozen=True)
class Mechanism:
    """Some steps that add Gaussian noise to a sum to which one unit contributes a vector of norm 1 at most.

    Attributes:
        name: of what is released.
        noise: standard deviation of the noise; 0 promises nothing.
        rate: probability with which each unit takes part in a step.
        steps: number of steps.
    """

    name: str
    noise: float
    rate: float = 1.0
    steps: int = 1


@dataclass(frozen=True)
class PrivacyBudget:
    """A budget and the mechanisms that spend it.

    Attributes:
        privacy: what is promised.
        mechanisms: by name; those of a whole run together are within epsilon.
    """

    privacy: Privacy
    mechanisms: Mapping[str, Mechanism]

    @staticmethod
    def of(privacy: Privacy, steps: int = 0) -> "PrivacyBudget":
        """Return the budget of a run in which every client is asked for so many steps of training."""
        return PrivacyBudget(privacy, calibrate(privacy, steps))


def accounting_library() -> str:
    """Return the name and version of the library that computes what is spent, and how it does so."""
    try:
        return f"dp-accounting {version('dp-accounting')}, privacy loss distributions"
    except PackageNotFoundError as error:
        raise _missing() from error


def spent(mechanisms: Iterable[Mechanism], delta: float) -> float:
    """Return the epsilon that mechanisms cost together; their order does not matter.

    Args:
        mechanisms: on the same images.
        delta: at which epsilon is asked for.

    Raises:
        MosaicError: dp-accounting is not installed.
    """
    return _spent(_merged(mechanisms), delta)


@lru_cache(maxsize=256)
def _spent(mechanisms: tuple[tuple[float, float, int], ...], delta: float) -> float:
    if not mechanisms:
        return 0.0
    if any(noise == 0 for noise, _, _ in mechanisms):
        return math.inf
    accounting = _library()
    event = accounting.dp_event
    scale = min(1.0, gaussian_epsilon(_precision(mechanisms) ** -0.5, delta))
    found = accounting.pld.PLDAccountant(value_discretization_interval=_FINENESS * max(0.01, scale))
    for noise, rate, steps in mechanisms:
        step = event.GaussianDpEvent(noise)
        if rate < 1:
            step = event.PoissonSampledDpEvent(rate, step)
        found.compose(step, steps)
    return float(found.get_epsilon(delta))


def _precision(mechanisms: Iterable[tuple[float, float, int]]) -> float:
    """Return ``1 / sigma^2`` of the Gaussian that mechanisms come near, by the central limit theorem.

    Bu et al. (2020, arXiv 1911.11607) have it for those that are sampled. It tells how fine to count, and not what is
    spent.
    """
    found = 0.0
    for noise, rate, steps in mechanisms:
        alone = min(noise**-2, 30.0)  # beyond it epsilon is not small, and the exponential overflows
        found += steps * (alone if rate == 1 else rate**2 * math.expm1(alone))
    return found


def _merged(mechanisms: Iterable[Mechanism]) -> tuple[tuple[float, float, int], ...]:
    """Return noise, rate and steps in a fixed order: all Gaussians as one, and steps of one kind together."""
    precision, sampled = 0.0, dict[tuple[float, float], int]()
    for each in sorted(mechanisms, key=lambda each: (each.noise, each.rate, each.steps)):  # sums depend on the order
        if each.rate == 1:
            precision += each.steps / each.noise**2 if each.noise else math.inf
        else:
            sampled[each.noise, each.rate] = sampled.get((each.noise, each.rate), 0) + each.steps
    gaussian = [(precision**-0.5, 1.0, 1)] if precision else []
    return (*gaussian, *((noise, rate, steps) for (noise, rate), steps in sorted(sampled.items())))


def gaussian_epsilon(noise: float, delta: float) -> float:
    """Return the epsilon of one Gaussian mechanism of sensitivity 1 (Balle and Wang 2018, arXiv 1805.06530, Theorem 8).

    >>> round(gaussian_epsilon(2.0, 1e-5), 2)
    1.99
    """

    def delta_of(epsilon: float) -> float:
        half, shift = 0.5 / noise, epsilon * noise
        return math.exp(log_ndtr(half - shift)) - math.exp(epsilon + log_ndtr(-half - shift))

    low, high = 0.0, 1.0
    while delta_of(high) > delta:
        low, high = high, 2 * high
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if delta_of(middle) > delta else (low, middle)
    return high


@lru_cache(maxsize=16)
def calibrate(privacy: Privacy, steps: int = 0) -> dict[str, Mechanism]:
    """Return every mechanism of a budget by name, with the noise that keeps all of them together within epsilon.

    Args:
        privacy: the budget.
        steps: of local training that a client is asked for in the whole run; at least one if the budget pays for any.

    Raises:
        MosaicError: dp-accounting is not installed.
    """
    shares, epsilon, delta = privacy.shares, privacy.epsilon, privacy.delta
    if math.isinf(epsilon):
        return _mechanisms(privacy, steps, 0.0, 0.0)
    total = _least_noise(lambda noise: gaussian_epsilon(noise, delta), epsilon, start=0.1, precise=1e-6)
    used = shares.released + shares.training

    def alone(share: float) -> float:
        cost = gaussian_epsilon(total / math.sqrt(share), delta)
        return max(cost, epsilon / 100)  # beside a large delta a small share costs nothing, at any noise

    target = epsilon if used > 1 - 1e-9 else alone(used)
    training: tuple[Mechanism, ...] = ()
    if privacy.trains:
        own = alone(shares.training) if shares.released else target
        of = lambda noise: spent([Mechanism(TRAINING, noise, privacy.sampling_rate, steps)], delta)  # noqa: E731
        noise = _least_noise(of, own, start=_LEAST_TRAINING_NOISE)
        training = (Mechanism(TRAINING, noise, privacy.sampling_rate, steps),)
    released = 0.0
    if shares.released:  # with what training leaves: it costs less beside others than alone
        of = lambda noise: spent((Mechanism("", noise), *training), delta)  # noqa: E731
        released = _least_noise(of, target, start=total / math.sqrt(used))
    found = _mechanisms(privacy, steps, released, training[0].noise if training else 0.0)
    while spent(found.values(), delta) > epsilon:  # rounding may decide
        released *= 1 + _TOLERANCE
        found = _mechanisms(privacy, steps, released, training[0].noise if training else 0.0)
    return found


def _mechanisms(privacy: Privacy, steps: int, released: float, training: float) -> dict[str, Mechanism]:
    """Return mechanisms, of which those that are released make one of this noise together."""
    shares = privacy.shares
    parts = {COUNTS: shares.counts, MEANS: shares.means, MOMENTS: shares.moments}
    found = {
        name: Mechanism(name, released * math.sqrt(shares.released / share)) for name, share in parts.items() if share
    }
    if privacy.trains:
        found[TRAINING] = Mechanism(TRAINING, training, privacy.sampling_rate, steps)
    return found


def _least_noise(cost: Callable[[float], float], target: float, start: float, precise: float = _TOLERANCE) -> float:
    """Return a noise, from ``start`` on, whose cost is within the target, and short of it by a small share at most.

    Costs fall nearly with a power of the noise, which tells from two of them where to look next.
    """
    low, high = start, start
    low_cost = high_cost = cost(start)
    while high_cost > target:
        low, low_cost, high = high, high_cost, high * max(1 + precise / 2, (high_cost / target) ** 0.8)
        high_cost = cost(high)
    while high_cost < target * (1 - precise) and high > low * (1 + 1e-9):
        middle = math.sqrt(low * high)
        if 0 < high_cost < low_cost < math.inf:
            power = math.log(low_cost / high_cost) / math.log(high / low)
            guess = low * (low_cost / target) ** (1 / power) * (1 + precise / 4 / power)
            middle = guess if low < guess < high else middle
        if (found := cost(middle)) > target:
            low, low_cost = middle, found
        else:
            high, high_cost = middle, found
    return high


def _library() -> Any:
    try:
        import dp_accounting
        import dp_accounting.pld
    except ImportError as error:
        raise _missing() from error
    return dp_accounting


def _missing() -> MosaicError:
    return MosaicError(
        "privacy: expected the package dp-accounting, which counts what is spent: pip install dp-accounting"
    )
