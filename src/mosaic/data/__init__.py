"""Data sets and their partitions. What the server does in a round never imports this package."""

from mosaic.data.images import Images, ImageSet
from mosaic.data.module import FederatedDataModule
from mosaic.data.own import from_datasets
from mosaic.data.partitions import (
    DirichletPartition,
    FlowerPartition,
    NaturalPartition,
    Partition,
    Remote,
    ReplayPartition,
)
from mosaic.data.remote import RemoteData
from mosaic.data.sources import (
    FolderSource,
    HubSource,
    NpzSource,
    ParquetSource,
    PartSource,
    PictureSource,
    SklearnDigits,
    Source,
    TinyImageNetSource,
    TorchvisionSource,
)
from mosaic.nets.augmentation import Augmentation

__all__ = [
    "Augmentation", "DirichletPartition", "FederatedDataModule", "FlowerPartition", "FolderSource", "HubSource",
    "ImageSet", "Images", "NaturalPartition", "NpzSource", "ParquetSource", "PartSource", "Partition", "PictureSource",
    "Remote", "RemoteData", "ReplayPartition", "SklearnDigits", "Source", "TinyImageNetSource", "TorchvisionSource",
    "from_datasets",
]  # fmt: skip
