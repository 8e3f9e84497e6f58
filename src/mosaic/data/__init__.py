"""Images, who holds which of them, and how they are seen. Only clients and the evaluation of a run come in here."""

from mosaic.data.augment import Augmentation
from mosaic.data.module import FederatedDataModule
from mosaic.data.partition import DirichletPartition, FlowerPartition, Partition
from mosaic.data.sources import NpzSource, ParquetSource, SklearnDigits, Source, TorchvisionSource

__all__ = [
    "Augmentation",
    "DirichletPartition",
    "FederatedDataModule",
    "FlowerPartition",
    "NpzSource",
    "ParquetSource",
    "Partition",
    "SklearnDigits",
    "Source",
    "TorchvisionSource",
]
