"""FedBN: clients keep their BatchNorm layers to themselves."""

from dataclasses import replace

from mosaic.algorithms.fedavg import FedAvg
from mosaic.client.objectives import CrossEntropy, LocalObjective
from mosaic.model_pool import PoolKind


class FedBN(FedAvg):
    """FedAvg without averaging BatchNorm layers, which never leave a client (Li et al., ICLR 2021, arXiv 2102.07623).

    Each client has a model of its own, the shared layers with its own BatchNorm parameters and statistics, so there is
    no global model: a run reports the mean over clients, by images, of their own models' test accuracy. On a network
    without BatchNorm it is FedAvg exactly.

    **Deviation:** clients weigh by their number of images where the paper's Algorithm 1 takes the plain mean, so that
    the two methods differ in BatchNorm alone. Layers are found by module type, shortcuts' included.

    Args:
        objective: what local training minimises.
    """

    supports = frozenset[PoolKind]({"same"})

    def __init__(self, objective: LocalObjective = CrossEntropy()) -> None:
        super().__init__(objective)
        self.program = replace(self.program, personal="batch_norm")
