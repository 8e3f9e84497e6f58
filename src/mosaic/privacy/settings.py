"""What is promised to every client, and how its budget is shared out."""

from dataclasses import dataclass
from typing import Literal

from mosaic.errors import MosaicError, is_number, require_at_least_zero, require_choice, require_kinds, require_positive

PrivateTraining = Literal["none", "dp_sgd"]
IMAGE = "image"
"""The unit in which every image counts by itself."""
_TOLERANCE = 1e-9
"""Of the sum of shares, which is rounded."""

LEAST_EPSILON, LEAST_DELTA, LARGEST_DELTA = 1e-3, 1e-14, 0.1
"""Beyond them lie the ends of the accountant's arithmetic."""


@dataclass(frozen=True)
class Shares:
    """How a client's budget is shared out, as shares of ``1 / sigma^2``.

    Gaussian mechanisms of sensitivity 1 compose to one with ``1 / sigma^2 = sum 1 / sigma_i^2`` (Dong, Roth and Su
    2019, arXiv 1905.02383), so that shares of it are what is really spent, where shares of epsilon are not. Local
    training gets the noise at which it would cost, alone, what a Gaussian with its share costs.

    Attributes:
        counts: of the number of images per class.
        means: of the sums of coefficients per class.
        moments: of the sums of outer products per class.
        training: of local training.
    """

    counts: float = 0.05
    means: float = 0.65
    moments: float = 0.30
    training: float = 0.0

    def __post_init__(self) -> None:
        """Refuse shares that exceed the budget.

        Raises:
            MosaicError: a share is negative, or their sum exceeds 1.
        """
        section = "privacy.shares"
        require_at_least_zero(section, counts=self.counts, means=self.means)
        require_at_least_zero(section, moments=self.moments, training=self.training)
        if (total := self.released + self.training) > 1 + _TOLERANCE:
            raise MosaicError(f"{section}: expected shares that add up to at most 1, got {total:g}: lower some")

    @property
    def released(self) -> float:
        """Share of everything that is released once."""
        return self.counts + self.means + self.moments


@dataclass(frozen=True)
class Privacy:
    """A budget of differential privacy for every client and the whole run, with adding or removing one unit.

    Attributes:
        epsilon: most that a client spends, at least 0.001. Infinity draws no noise and promises nothing: it shows what
            noise costs.
        delta: probability with which the promise may fail, from 1e-14 to 0.1; less than one over a client's units.
        unit: what is protected: ``image``, or a group that the source names, such as ``patient``, all of whose images
            at one client weigh together as much as one image.
        shares: how the budget is shared out.
        local_training: whether clients also train the model, by DP-SGD (Abadi et al. 2016, arXiv 1607.00133).
        sampling_rate: of DP-SGD: probability with which each image is in a batch. Neither this nor ``data.batch_size``,
            by which sums of gradients are divided, depends on how many images a client holds.
        clipping: of DP-SGD: largest norm of one image's gradient.
    """

    epsilon: float
    delta: float = 1e-5
    unit: str = IMAGE
    shares: Shares = Shares()
    local_training: PrivateTraining = "none"
    sampling_rate: float = 0.05
    clipping: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what promises nothing or cannot be meant.

        Raises:
            MosaicError: a value is out of its range, or values do not fit each other.
        """
        numbers = ("epsilon", "delta", "sampling_rate", "clipping")
        for key in numbers:
            if not is_number(value := getattr(self, key)) or isinstance(value, bool):
                raise MosaicError(f"privacy.{key}: expected a number, got {value!r}")
            object.__setattr__(self, key, float(value))  # numpy's numbers are in no ledger
        require_kinds("privacy", shares=(self.shares, Shares))
        if not self.epsilon >= LEAST_EPSILON:
            least = f"{LEAST_EPSILON}, below which nobody counts what is spent"
            raise MosaicError(f"privacy.epsilon: expected at least {least}, such as 3, got {self.epsilon}")
        if not LEAST_DELTA <= self.delta <= LARGEST_DELTA:
            raise MosaicError(
                f"privacy.delta: expected a probability from {LEAST_DELTA} to {LARGEST_DELTA}, such as 1e-5, got "
                f"{self.delta}"
            )
        if not 0 < self.sampling_rate <= 1:
            raise MosaicError(f"privacy.sampling_rate: expected a share in (0, 1], got {self.sampling_rate}")
        require_positive("privacy", clipping=self.clipping)
        require_choice("privacy", PrivateTraining, local_training=self.local_training)
        if self.trains != (self.shares.training > 0):
            raise MosaicError(
                f"privacy.shares.training: expected a share above 0 with local_training dp_sgd and 0 without, got "
                f"{self.shares.training} with {self.local_training}: set one of them, and let all shares add up to 1"
            )
        if self.trains and self.unit != IMAGE:
            raise MosaicError(
                f"privacy.unit: expected image with local_training dp_sgd, which clips gradients of images, got "
                f"{self.unit}: set local_training none"
            )

    @property
    def trains(self) -> bool:
        """Whether clients train the model."""
        return self.local_training == "dp_sgd"

    def check_images(self, images: int) -> None:
        """Refuse a delta at which publishing one unit in clear would keep the promise.

        Raises:
            MosaicError: delta is at least one over the number of images of a client.
        """
        if self.delta * images >= 1:
            raise MosaicError(
                f"privacy.delta: expected less than 1 / {images}, one over the images of the largest client, got "
                f"{self.delta:g}: such a delta allows to publish one of them: lower it"
            )
