"""FedVLS: clients keep what the global model knows of classes that they lack."""

from mosaic.algorithms.fedavg import FedAvg
from mosaic.client.objectives import VacantClass
from mosaic.errors import require_at_least_zero, require_positive


class FedVLS(FedAvg):
    """FedAvg with vacant-class distillation and logit suppression (Guo et al., AAAI 2025, arXiv 2401.02329).

    Args:
        suppression: weight of the logit suppression, see :class:`~mosaic.client.objectives.VacantClass`; 0 leaves it
            out.
        distillation: weight of the vacant-class distillation (0.1 for CIFAR-10, 0.5 for CIFAR-100); 0 leaves it out.
        epsilon: images of every class that a client is credited with in its label prior.
        adjust_prior: whether the cross-entropy is adjusted by the label prior; without this and both terms it is FedAvg
            exactly.

    Raises:
        MosaicError: a weight is negative, or epsilon is not positive.
    """

    def __init__(
        self,
        suppression: float = 0.005,
        distillation: float = 0.1,
        epsilon: float = 0.01,
        adjust_prior: bool = True,
    ) -> None:
        require_at_least_zero("algorithm", suppression=suppression, distillation=distillation)
        require_positive("algorithm", epsilon=epsilon)
        super().__init__(VacantClass(suppression, distillation, epsilon, adjust_prior))
