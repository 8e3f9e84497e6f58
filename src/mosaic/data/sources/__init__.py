"""Sources of images. YAML names a source by its class; ``rules.py`` states how pictures are decoded."""

from mosaic.data.sources.base import PictureSource, Source
from mosaic.data.sources.digits import SklearnDigits
from mosaic.data.sources.folder import FolderSource
from mosaic.data.sources.hub import HubSource
from mosaic.data.sources.npz import NpzSource
from mosaic.data.sources.parquet import ParquetSource
from mosaic.data.sources.part import PartSource
from mosaic.data.sources.tiny_imagenet import TinyImageNetSource
from mosaic.data.sources.torchvision_class import TorchvisionSource

__all__ = [
    "FolderSource", "HubSource", "NpzSource", "ParquetSource", "PartSource", "PictureSource", "SklearnDigits",
    "Source", "TinyImageNetSource", "TorchvisionSource",
]  # fmt: skip
