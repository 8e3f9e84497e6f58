"""Centralised training, a control: the upper end of the scale."""

from mosaic.algorithms.fedavg import FedAvg
from mosaic.model_pool import PoolKind


class Centralised(FedAvg):
    """Train one model on the images of all clients together: what federated learning can hope to reach.

    **It breaks the promise that images stay with their clients, and is a control only.** In every round the model takes
    as many optimiser steps, of the same batch size, as all clients of that round take together in FedAvg; with one
    client it is FedAvg exactly. What is booked as traffic is the model's; that the images have moved is not counted.

    Args:
        objective: what training minimises.
    """

    supports = frozenset[PoolKind]({"same"})
    gathers_data = True
