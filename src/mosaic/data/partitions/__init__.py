"""Rules that deal training images out to clients."""

from mosaic.data.partitions.base import Partition
from mosaic.data.partitions.dirichlet import DirichletPartition
from mosaic.data.partitions.flower import FlowerPartition
from mosaic.data.partitions.natural import NaturalPartition
from mosaic.data.partitions.remote import Remote
from mosaic.data.partitions.replay import ReplayPartition

__all__ = ["DirichletPartition", "FlowerPartition", "NaturalPartition", "Partition", "Remote", "ReplayPartition"]
