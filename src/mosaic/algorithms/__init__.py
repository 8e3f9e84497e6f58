"""Federated algorithms and their settings. Each writes one communication round as straight-line Python."""

from mosaic.algorithms.base import Algorithm
from mosaic.algorithms.centralised import Centralised
from mosaic.algorithms.co_boosting import CoBoosting
from mosaic.algorithms.dense import DENSE
from mosaic.algorithms.dfrd import DFRD
from mosaic.algorithms.fedavg import FedAvg
from mosaic.algorithms.fedbn import FedBN
from mosaic.algorithms.fedftg import FedFTG
from mosaic.algorithms.fedprox import FedProx
from mosaic.algorithms.fedrs import FedRS
from mosaic.algorithms.fedvls import FedVLS
from mosaic.algorithms.local_only import LocalOnly
from mosaic.algorithms.mosaic import Mosaic
from mosaic.algorithms.prototype_head import PrototypeHead
from mosaic.client.objectives import (
    CrossEntropy,
    LocalObjective,
    PriorAdjusted,
    Proximal,
    RestrictedSoftmax,
    VacantClass,
)
from mosaic.client.prototypes import PrototypeSettings
from mosaic.client.replay import ReplaySettings
from mosaic.tasks.distillation import DistillationSettings
from mosaic.tasks.generator_distillation import GeneratorDistillationSettings
from mosaic.tasks.synthesis_settings import LearningSettings, ReweighingSettings, SynthesisSettings

__all__ = [
    "DENSE", "DFRD", "Algorithm", "Centralised", "CoBoosting", "CrossEntropy", "DistillationSettings", "FedAvg",
    "FedBN", "FedFTG", "FedProx", "FedRS", "FedVLS", "GeneratorDistillationSettings", "LearningSettings",
    "LocalObjective", "LocalOnly", "Mosaic", "PriorAdjusted", "PrototypeHead", "PrototypeSettings", "Proximal",
    "ReplaySettings", "RestrictedSoftmax", "ReweighingSettings", "SynthesisSettings", "VacantClass",
]  # fmt: skip
