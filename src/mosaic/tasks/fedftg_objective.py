"""What generator and student minimise in FedFTG, wired from its losses."""

import torch
from torch import Tensor, nn

from mosaic.losses.fedftg import (
    ensemble_cross_entropy,
    similarity,
    weighted_cross_entropy,
    weighted_disagreement,
)
from mosaic.nets.class_weighted import ClassWeightedEnsemble
from mosaic.tasks.generator_distillation import DistillationObjective, Wishes


class FedFTGObjective(DistillationObjective):
    """In every update of the generator one client judges, each in its turn; the student follows all of them.

    Args:
        ensemble: the clients' models with their class weights.
        classification_weight: weight of the client's cross-entropy.
        diversity_weight: weight of the images' likeness, before it is divided by the number of clients.
        first: update of the whole run that this round begins with: where rounds have fewer updates than there are
            clients, all get their turn even so.
    """

    def __init__(
        self, ensemble: ClassWeightedEnsemble, classification_weight: float, diversity_weight: float, first: int = 0
    ) -> None:
        super().__init__()
        self.ensemble, self.first = ensemble, first
        self.classification_weight, self.diversity_weight = classification_weight, diversity_weight

    def generator_terms(self, images: Tensor, wishes: Wishes, student: nn.Module, update: int) -> dict[str, Tensor]:
        """Return the likeness and, where the client knows any of the labels, how it and the student judge these."""
        clients = len(self.ensemble.members)
        terms = {"similarity": self.diversity_weight / clients * similarity(wishes.noise, images)}
        client = (self.first + update) % clients
        heard, weights = self.ensemble.heard(client, wishes.labels)
        if len(heard) == 0:
            return terms
        judged, weights = images[heard], weights * len(heard) / len(images)  # the others count with weight 0
        teacher_logits = self.ensemble.members[client](judged)
        classification = weighted_cross_entropy(teacher_logits, wishes.labels[heard], weights)
        return {
            **terms,
            "classification": self.classification_weight * classification,
            "disagreement": -weighted_disagreement(student(judged), teacher_logits, weights),
        }

    def student_loss(self, logits: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy with the clients' weighted probabilities."""
        with torch.no_grad():
            probabilities = self.ensemble(images, labels, lambda each: each.softmax(-1))
        return ensemble_cross_entropy(logits, probabilities)
