"""Settings of synthesis and distillation in DENSE and Co-Boosting."""

from dataclasses import dataclass
from typing import Literal

from mosaic.errors import (
    require_a_batch,
    require_at_least_zero,
    require_below_one,
    require_choice,
    require_count,
    require_kinds,
    require_positive,
    require_share,
)
from mosaic.nets.augmentation import Augmentation
from mosaic.nets.dcgan import Initialization

PixelDirection = Literal["student", "random"]


@dataclass(frozen=True)
class SynthesisSettings:
    """How a batch of images is synthesised; weights, rate and latent size are DENSE's (arXiv 2112.12371).

    Attributes:
        batch_size: images per synthesis; 200 syntheses of 64 make twice the images of Mosaic's default pool. A step
            holds the activations of all experts on this many images.
        latent_dim: length of the noise, which is trained with the generator (DENSE: 256).
        width: channels of the generator before its last layer. After 30 steps on digits, the distance from the
            experts' BatchNorm statistics is about 10 with 32 or 64 channels, and 13 with 16.
        initialization: of every fresh generator, see :class:`~mosaic.nets.dcgan.Generator`; with ``dcgan``, 30 steps
            are too few for a narrow generator (width 16: a distance of 18).
        learning_rate: of Adam (DENSE: 1e-3).
        statistics_weight: weight of the distance from the experts' BatchNorm statistics (DENSE: 1); 0 leaves it out.
        label_weight: weight of the cross-entropy between the ensemble and the drawn labels (DENSE: 1).
        divergence_weight: weight of the student's divergence from the ensemble, which is subtracted (DENSE: 1); 0
            leaves it out.
        divergence_temperature: t of that divergence (DENSE: 1; Co-Boosting, arXiv 2402.15070: 3).
        only_disagreeing: whether the divergence counts only images of which the two predict different classes (DENSE);
            otherwise it counts all (Co-Boosting).
        mean_statistics: whether the BatchNorm distance is the mean over the experts (Co-Boosting) or their sum.
        hard_labels: whether an image's cross-entropy is multiplied by ``1 - p``, where p is the ensemble's probability
            of its label (Co-Boosting).
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
            learning_rate=self.learning_rate,
            divergence_temperature=self.divergence_temperature,
        )
        require_at_least_zero(
            section,
            statistics_weight=self.statistics_weight,
            label_weight=self.label_weight,
            divergence_weight=self.divergence_weight,
        )
        flags = ("only_disagreeing", "mean_statistics", "hard_labels")
        require_kinds(section, **{name: (getattr(self, name), bool) for name in flags})
        require_choice(section, Initialization, initialization=self.initialization)
        require_count(section, batch_size=self.batch_size, latent_dim=self.latent_dim, width=self.width)
        require_a_batch(section, self.batch_size)


@dataclass(frozen=True)
class LearningSettings:
    """How the student learns from the ensemble on the pool; the defaults are DENSE's.

    Attributes:
        batch_size: images per update, drawn from the pool with replacement; 128 as in Mosaic's default.
        learning_rate: of SGD (DENSE: 5e-3).
        momentum: of SGD; it persists over all syntheses (DENSE: 0.9).
        temperature: t of the soft targets (DENSE: 20; Co-Boosting, arXiv 2402.15070: 4).
        view: the augmentation of images before student and ensemble see them. **Deviation:** none by default, because
            the data decide what preserves a class (a mirrored digit is no digit); DENSE crops with padding 4 and
            mirrors.
        pixel_step: how far each pixel moves along the sign of a gradient before both see the image; 0 leaves images
            unchanged (DENSE); 8/255 in Co-Boosting.
        pixel_direction: the quantity of that gradient: ``student``, the student's divergence from the ensemble, which
            makes the image harder for the student; or ``random``, the ensemble's probabilities at ``temperature``, each
            weighted by a number drawn from [-1, 1], as in Co-Boosting's released code.
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
        require_choice(section, PixelDirection, pixel_direction=self.pixel_direction)
        require_a_batch(section, self.batch_size)
        require_below_one(section, momentum=self.momentum)


@dataclass(frozen=True)
class ReweighingSettings:
    """How the experts' weights in the ensemble change after each synthesis (Co-Boosting, arXiv 2402.15070).

    Attributes:
        step: how far each weight moves against the sign of its gradient of the newest images' cross-entropy; 0 keeps
            the mean (DENSE).
        decay: factor of the step after every synthesis.
    """

    step: float = 0.01
    decay: float = 0.99

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        require_share("algorithm.reweighing", step=self.step, decay=self.decay)
