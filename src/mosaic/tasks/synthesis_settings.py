"""How an ensemble teaches a student with images made for it: the settings of DENSE and Co-Boosting."""

from dataclasses import dataclass
from typing import Literal, get_args

from mosaic.errors import MosaicError, require_at_least_zero, require_decay, require_positive, require_share
from mosaic.nets.augmentation import Augmentation
from mosaic.nets.dcgan import Initialization

PixelDirection = Literal["student", "random"]


@dataclass(frozen=True)
class SynthesisSettings:
    """How a batch of images is made; weights, rate and latent size are DENSE's (arXiv 2112.12371).

    Attributes:
        batch_size: images of one synthesis; 200 syntheses of 64 make twice the images of Mosaic's default pool. A step
            holds the activations of all experts on this many images.
        latent_dim: length of the noise, which is trained with the generator (DENSE: 256).
        width: channels of the generator before its last layer. On digits 30 steps take 32 as near to the experts'
            BatchNorm statistics as 64 (a distance of about 10), and 16 not (13).
        initialization: of every fresh generator, see :class:`~mosaic.nets.dcgan.Generator`; with ``dcgan`` 30 steps are
            too few for a narrow one (width 16: 18).
        learning_rate: of Adam (DENSE: 1e-3).
        statistics_weight: weight of the distance from the experts' BatchNorm statistics (DENSE: 1); 0 leaves it out.
        label_weight: weight of the cross-entropy between the ensemble and the drawn labels (DENSE: 1).
        divergence_weight: weight of the student's divergence from the ensemble, which is subtracted (DENSE: 1); 0
            leaves it out.
        divergence_temperature: t of that divergence (DENSE: 1; Co-Boosting, arXiv 2402.15070: 3).
        only_disagreeing: whether the divergence counts only where the two choose different classes (DENSE; Co-Boosting
            counts all images).
        mean_statistics: whether the BatchNorm distance is the mean over the experts (Co-Boosting), not their sum.
        hard_labels: whether an image's cross-entropy is multiplied by ``1 - p``, with p the ensemble's probability of
            its label (Co-Boosting).
    """

    batch_size: int = 64
    latent_dim: int = 256
    width: int = 32
    initialization: Initialization = "default"
    learning_rate: float = 1e-3
    statistics_weight: float = 1.0
    label_weight: float = 1.0
    divergence_weight: float = 1.0
    divergence_temperature: float = 1.0
    only_disagreeing: bool = True
    mean_statistics: bool = False
    hard_labels: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        section = "algorithm.synthesis"
        require_positive(
            section,
            latent_dim=self.latent_dim,
            width=self.width,
            learning_rate=self.learning_rate,
            divergence_temperature=self.divergence_temperature,
        )
        require_at_least_zero(
            section,
            statistics_weight=self.statistics_weight,
            label_weight=self.label_weight,
            divergence_weight=self.divergence_weight,
        )
        _require_a_batch(section, self.batch_size)


@dataclass(frozen=True)
class LearningSettings:
    """How the student follows the ensemble on the images that there are so far; the defaults are DENSE's.

    Attributes:
        batch_size: images of one update, drawn from the pool with replacement; 128 as in Mosaic's default.
        learning_rate: of SGD (DENSE: 5e-3).
        momentum: of SGD, which lasts over all syntheses (DENSE: 0.9).
        temperature: t of the soft targets (DENSE: 20; Co-Boosting, arXiv 2402.15070: 4).
        view: what is done to images before student and ensemble see them, both the same. **Deviation:** nothing by
            default, since what leaves an image's class alone depends on the data (a mirrored digit is none); DENSE
            crops with padding 4 and mirrors.
        pixel_step: how far each pixel moves along the sign of a gradient before both see the image; 0 leaves images as
            they are (DENSE); 8/255 in Co-Boosting.
        pixel_direction: whose gradient that is: ``student``, of the student's divergence from the ensemble, so that the
            image becomes harder for the student; or ``random``, of the ensemble's probabilities at ``temperature``,
            each weighted by a number drawn from [-1, 1], as in Co-Boosting's released code.
    """

    batch_size: int = 128
    learning_rate: float = 5e-3
    momentum: float = 0.9
    temperature: float = 20.0
    view: Augmentation | None = None
    pixel_step: float = 0.0
    pixel_direction: PixelDirection = "student"

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        section = "algorithm.learning"
        require_positive(section, learning_rate=self.learning_rate, temperature=self.temperature)
        require_share(section, pixel_step=self.pixel_step)
        if self.pixel_direction not in (known := get_args(PixelDirection)):
            raise MosaicError(f"{section}.pixel_direction: expected {' or '.join(known)}, got {self.pixel_direction}")
        _require_a_batch(section, self.batch_size)
        require_decay(section, momentum=self.momentum)


@dataclass(frozen=True)
class ReweighingSettings:
    """How the experts' weights in the ensemble move after each synthesis (Co-Boosting, arXiv 2402.15070).

    Attributes:
        step: how far each weight moves down the cross-entropy of the newest images, along the sign of the gradient; 0
            leaves the ensemble a mean (DENSE).
        decay: what the step is multiplied by after every synthesis.
    """

    step: float = 0.01
    decay: float = 0.99

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        require_share("algorithm.reweighing", step=self.step, decay=self.decay)


def _require_a_batch(section: str, batch_size: int) -> None:
    if batch_size < 2:
        raise MosaicError(
            f"{section}.batch_size: expected at least 2 images, since one has no variance, got {batch_size}"
        )
