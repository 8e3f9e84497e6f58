"""What generator and student minimise in DFRD, wired from its losses."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mosaic.losses.dfrd import fidelity, transferability
from mosaic.losses.distillation import knowledge_distillation
from mosaic.losses.fedftg import similarity
from mosaic.nets.class_weighted import ClassWeightedEnsemble
from mosaic.tasks.generator_distillation import DistillationObjective, Wishes


class DFRDObjective(DistillationObjective):
    """Faithful, transferable and diverse images for the generator; the ensemble's softmax for the student.

    Args:
        ensemble: the clients' models with their class weights.
        transfer_weight: weight of the reward for the student's mistakes.
        diversity_weight: weight of the images' likeness.
    """

    def __init__(self, ensemble: ClassWeightedEnsemble, transfer_weight: float, diversity_weight: float) -> None:
        super().__init__()
        self.ensemble = ensemble
        self.transfer_weight, self.diversity_weight = transfer_weight, diversity_weight

    def generator_terms(self, images: Tensor, wishes: Wishes, student: nn.Module, update: int) -> dict[str, Tensor]:
        """Return the three terms; likeness is that of images from different noise or labels."""
        noise, labels = wishes
        logits = self.ensemble(images, labels)
        origin = torch.cat([noise, F.one_hot(labels, logits.shape[1]).to(noise.dtype)], dim=1)
        return {
            "fidelity": fidelity(logits, labels),
            "transferability": self.transfer_weight * transferability(student(images), logits, labels),
            "similarity": self.diversity_weight * similarity(origin, images),
        }

    def student_loss(self, logits: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """Return the divergence from the ensemble's softmax."""
        with torch.no_grad():
            ensemble_logits = self.ensemble(images, labels)
        return knowledge_distillation(logits, ensemble_logits)
