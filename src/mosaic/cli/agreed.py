"""Check a deployment's configuration before folders are written: make what its server would run."""

from pathlib import Path
from typing import Any

from mosaic.cli.lightning import MosaicCLI, parse_and_run
from mosaic.data import FederatedDataModule, Remote, RemoteData
from mosaic.errors import MosaicError
from mosaic.executors import ClientExecutor
from mosaic.federation.job import Job
from mosaic.tasks.global_classifier import GlobalClassifier

_ANYWHERE = {"accelerator": "cpu", "devices": "1", "strategy": "auto", "precision": "32-true", "num_nodes": "1"}
"""Settings of the Trainer that every host has, since this one need not be the server."""


class AgreedCLI(MosaicCLI):
    """Makes what the server would run, without a look at files that only other hosts have."""

    def _job(self, model: GlobalClassifier, datamodule: FederatedDataModule) -> Job:
        if not isinstance(datamodule.partition, Remote):
            raise MosaicError(
                "data.partition: expected mosaic.data.Remote, which says what all parties agree on, since the server "
                f"has no images, got {type(datamodule.partition).__name__}: see docs/deployment.md"
            )
        datamodule.source = None
        return super()._job(model, datamodule)

    def _remote(self, given: FederatedDataModule, executor: ClientExecutor, config: dict[str, Any]) -> RemoteData:
        """Return what all know of the data; where clients will be asked for statistics, any will do."""
        data = RemoteData(given)
        channels = data.partition.image_shape[0]
        data.mean, data.std = map(list, data.statistics or ([0.5] * channels, [0.5] * channels))
        return data


def require_agreed(config: Path) -> int:
    """Return how many clients a configuration has; refuse one with which the server could not begin.

    Raises:
        MosaicError: a key is unknown, a value is out of its range, or parts do not fit together.
    """
    fixed = [f"--trainer.{key}={value}" for key, value in _ANYWHERE.items()]
    given = ["fit", "--config", str(config), "--executor=mosaic.executors.FlowerExecutor", *fixed]
    job = parse_and_run(AgreedCLI, given).job
    job.check()
    return job.data.num_clients
