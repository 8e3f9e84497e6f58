"""DFRD: FedFTG with another loss and a moving average of the generators of earlier rounds."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mosaic.algorithms.fedftg import FedFTG
from mosaic.client.objectives import CrossEntropy, LocalObjective
from mosaic.errors import require_at_least_zero, require_below_one, require_share
from mosaic.losses.dfrd import fidelity, transferability
from mosaic.losses.distillation import knowledge_distillation
from mosaic.losses.fedftg import similarity
from mosaic.messages import StateDict
from mosaic.nets.class_weighted import ClassWeightedEnsemble
from mosaic.nets.dcgan import Generator
from mosaic.nets.moving_average import MovingAverage
from mosaic.server.context import RoundContext, RoundPlan
from mosaic.server.kept_generator import load_generator, tensors_below, tensors_of
from mosaic.server.state import ServerState
from mosaic.tasks.generator_distillation import (
    Conditions,
    DistillationObjective,
    EarlierGenerator,
    GeneratorDistillationSettings,
)

AVERAGE = "generator.average."
"""Prefix of the moving average's tensors in the server's state, before its correction."""
ROUNDS = "generator.rounds"
"""Name of how many rounds the moving average has seen."""


class DFRD(FedFTG):
    """FedAvg, then data-free distillation with a remembered generator (Luo et al., NeurIPS 2023).

    As in FedFTG, labels are drawn as often as the clients hold them and each client counts by its share of the images
    that have the wanted label. What differs: the generator listens to the ensemble of all clients at once, it is
    rewarded for the student's mistakes only where the ensemble is right, the student follows the ensemble's softmax,
    and some of the student's images come from a moving average of the generators of earlier rounds, against forgetting.

    Built from the paper's description (arXiv 2309.13546), without its authors' code. **Deviation:** distances in the
    diversity term are FedFTG's means over coordinates, so that no size of image makes the exponent vanish. The share of
    remembered images and the moment at which the average takes in a round's generator (when the round ends) are ours.

    Args:
        objective: what local training minimises.
        student_updates: as for :class:`~mosaic.algorithms.FedFTG`.
        generator_updates: as for :class:`~mosaic.algorithms.FedFTG`; each costs a pass through all clients' models.
        tuning: how generator and student learn; the student at a tenth of FedFTG's rate, since its loss is a mean over
            images and not over ten classes too.
        transfer_weight: weight of the reward for the student's mistakes in the generator's loss (ours: as much as the
            fidelity).
        diversity_weight: weight of the images' likeness in the generator's loss (ours: likewise).
        average_decay: of the moving average over rounds, with the bias of its start taken out; 0 remembers the last
            round's generator.
        average_share: share of the student's images that the moving average makes, from the second round on.
        guarded: as for :class:`~mosaic.algorithms.FedFTG`.

    Raises:
        MosaicError: a number of updates or a weight is negative, or decay or share are out of their range.
    """

    def __init__(
        self,
        objective: LocalObjective = CrossEntropy(),
        student_updates: int = 600,
        generator_updates: int = 6000,
        tuning: GeneratorDistillationSettings = GeneratorDistillationSettings(student_learning_rate=0.01),
        transfer_weight: float = 1.0,
        diversity_weight: float = 1.0,
        average_decay: float = 0.5,
        average_share: float = 0.5,
        guarded: bool = True,
    ) -> None:
        require_at_least_zero("algorithm", transfer_weight=transfer_weight)
        require_share("algorithm", average_share=average_share)
        require_below_one("algorithm", average_decay=average_decay)
        super().__init__(
            objective,
            student_updates,
            generator_updates,
            tuning,
            diversity_weight=diversity_weight,
            guarded=guarded,
        )
        self.transfer_weight = transfer_weight
        self.average_decay, self.average_share = average_decay, average_share

    def _objective(self, ensemble: ClassWeightedEnsemble, plan: RoundPlan) -> DistillationObjective:
        return DFRDObjective(ensemble, self.transfer_weight, self.diversity_weight)

    def _earlier(self, state: ServerState, context: RoundContext) -> EarlierGenerator | None:
        if ROUNDS not in state.tensors:
            return None
        average = self._load_average(load_generator(self.tuning, state, context), state)
        return EarlierGenerator(average.corrected(), self.average_share)

    def _remember(self, generator: Generator, state: ServerState) -> StateDict:
        average = self._load_average(generator, state)
        average.update(generator)
        tensors = tensors_of(average.average, AVERAGE)
        return {**super()._remember(generator, state), **tensors, ROUNDS: torch.tensor(average.steps)}

    def _load_average(self, generator: Generator, state: ServerState) -> MovingAverage:
        average = MovingAverage(generator, self.average_decay)
        if ROUNDS in state.tensors:
            average.average.load_state_dict(tensors_below(AVERAGE, state.tensors))
            average.steps = int(state.tensors[ROUNDS])
        return average


class DFRDObjective(DistillationObjective):
    """Train the generator towards faithful, transferable and diverse images, the student towards the ensemble.

    Args:
        ensemble: the clients' models with their class weights.
        transfer_weight: weight of the reward for the student's mistakes.
        diversity_weight: weight of the images' similarity.
    """

    def __init__(self, ensemble: ClassWeightedEnsemble, transfer_weight: float, diversity_weight: float) -> None:
        super().__init__()
        self.ensemble = ensemble
        self.transfer_weight, self.diversity_weight = transfer_weight, diversity_weight

    def generator_terms(
        self, images: Tensor, conditions: Conditions, student: nn.Module, update: int
    ) -> dict[str, Tensor]:
        """Return the three terms; the similarity is between images of different noise or labels."""
        noise, labels, drawn = conditions
        logits = self.ensemble(images, drawn)
        origin = torch.cat([noise, F.one_hot(labels, logits.shape[1]).to(noise.dtype)], dim=1)
        return {
            "fidelity": fidelity(logits, labels),
            "transferability": self.transfer_weight * transferability(student(images), logits, labels),
            "similarity": self.diversity_weight * similarity(origin, images),
        }

    def student_loss(self, logits: Tensor, images: Tensor, conditions: Conditions) -> Tensor:
        """Return the divergence from the ensemble's softmax."""
        with torch.no_grad():
            ensemble_logits = self.ensemble(images, conditions.drawn)
        return knowledge_distillation(logits, ensemble_logits)
