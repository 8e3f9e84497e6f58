"""The sections of a configuration, and the parser that reads them."""

from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from mosaic.algorithms import Algorithm
from mosaic.data import FederatedDataModule
from mosaic.executors import ClientExecutor
from mosaic.federation.federation import Federation
from mosaic.model_pool import ClientModels
from mosaic.privacy import Privacy
from mosaic.tasks.global_classifier import GlobalClassifier
from mosaic.yaml_files import read_yaml

SECTIONS: dict[str, Any] = {
    "model": GlobalClassifier,
    "data": FederatedDataModule,
    "algorithm": Algorithm,
    "executor": ClientExecutor,
    "federation": Federation,
    "clients": ClientModels,
    "privacy": Privacy,
}
"""Sections of a configuration, and what they make."""


class MosaicParser(LightningArgumentParser):
    """Raises on a bad request instead of printing usage and leaving, so that the command says it in one line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"prog": "mosaic", "exit_on_error": False, "allow_abbrev": False, **kwargs})

    def parse_path(self, cfg_path: Any, *args: Any, **kwargs: Any) -> Namespace:
        """Read a configuration, of a file or of a pipe, which can be read only once.

        Raises:
            MosaicError: a parser would hang or guess at the file, or it describes a run of Python objects.
        """
        path = Path(cfg_path)
        if path.is_file():
            read_yaml(path)
        found: Namespace = super().parse_path(cfg_path, *args, **kwargs)
        return found

    def get_defaults(self, *args: Any, **kwargs: Any) -> Namespace:
        """Leave out the arguments of default classes, or jsonargparse would hand them to classes that replace these.

        ``ResNet18`` would be as narrow as the default ``SmallCNN``, ``AdamW`` would decay weights as little as ``SGD``.
        """
        defaults = super().get_defaults(*args, **kwargs)
        for key in ("algorithm", "executor", "model.net", "model.optimizer"):
            if isinstance(named := defaults.get(key), Namespace):
                named.pop("init_args", None)
        return defaults


def add_sections(parser: LightningArgumentParser, with_core: bool = False) -> None:
    """Add the sections of a configuration, with model and data where Lightning does not add them."""
    if with_core:
        parser.add_lightning_class_args(GlobalClassifier, "model")
        parser.add_lightning_class_args(FederatedDataModule, "data")
    parser.add_subclass_arguments(Algorithm, "algorithm")
    parser.add_subclass_arguments(ClientExecutor, "executor")
    parser.add_class_arguments(Federation, "federation")
    parser.add_class_arguments(ClientModels, "clients")
    parser.add_argument("--privacy", type=Privacy | None, help="budget of differential privacy of every client")
    defaults = {"algorithm": "mosaic.algorithms.Mosaic", "executor": "mosaic.executors.SerialExecutor"}
    parser.set_defaults({key: {"class_path": path} for key, path in defaults.items()})
