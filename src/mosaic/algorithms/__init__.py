"""Federated algorithms. Each writes one communication round as straight-line Python."""

from mosaic.algorithms.base import Algorithm
from mosaic.algorithms.fedavg import FedAvg
from mosaic.algorithms.mosaic import Mosaic
from mosaic.algorithms.prototype_head import PrototypeHead

__all__ = ["Algorithm", "FedAvg", "Mosaic", "PrototypeHead"]
