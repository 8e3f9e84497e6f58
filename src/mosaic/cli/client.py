"""``mosaic client``: the resident process of one client of a federation whose clients are on hosts of their own."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from mosaic.cli.lightning import MosaicCLI, carry_out
from mosaic.data import FederatedDataModule, Remote, RemoteData
from mosaic.data.remote import Statistics
from mosaic.deployment.resident import Resident, serve
from mosaic.errors import MosaicError, require_positive
from mosaic.executors import ClientExecutor
from mosaic.executors.remote.wire import agreement
from mosaic.tasks.global_classifier import GlobalClassifier
from mosaic.training.signals import Preempted, heeding_signals

log = logging.getLogger(__name__)


class ClientCLI(MosaicCLI):
    """Parses what ``fit`` parses, and makes what answers for one client where ``fit`` would run rounds."""

    resident: Resident

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add who this client is, and where it listens and remembers."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--client", type=int, required=True, help="number of this client, from 0")
        parser.add_argument("--socket", type=Path, default=Path("client.sock"), help="Unix socket to listen on")
        parser.add_argument("--group", type=str, help="group of the operating system that may connect, too")
        parser.add_argument("--folder", type=Path, default=Path("memory"), help="where to remember runs")
        parser.add_argument("--keep_rounds", type=int, default=10, help="rounds of a run to remember")

    def fit(
        self,
        model: GlobalClassifier,
        datamodule: FederatedDataModule,
        ckpt_path: str | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Load the client's images and make what answers for it."""
        given: Any = self.config_init.fit
        require_positive("client", keep_rounds=given.keep_rounds)
        if not isinstance(datamodule.partition, Remote):
            raise MosaicError(
                "data.partition: expected mosaic.data.Remote, which says what all parties have agreed on, got "
                f"{type(datamodule.partition).__name__}: a simulation has no clients of its own"
            )
        private = self._privacy(datamodule) is not None
        data = RemoteData(datamodule, given.client)
        data.setup("fit")
        train, validation = data.splits[given.client]
        told = data.statistics

        def worker(statistics: Statistics) -> Any:
            data.mean, data.std = map(list, statistics)
            return self._job(model, data).worker()

        if told is not None:
            worker(told)  # so that a configuration that cannot work fails now
        judging = self._get(self.config_init, "federation").judging
        self.resident = Resident(
            data, agreement(self._written()), worker, given.folder, given.keep_rounds, judging, private
        )
        log.info("client %d: %d images to train on, %d to validate on", given.client, len(train), len(validation))

    def _ledgers(self, config: Mapping[str, Any]) -> Path:
        """Return the folder of this client's ledger, which holds for all runs: its images are the same in each."""
        given: Any = self.config_init.fit
        return Path(given.folder) / "privacy"

    def _remote(self, data: FederatedDataModule, executor: ClientExecutor, config: dict[str, Any]) -> RemoteData:
        """Return the data as they are; the server alone asks around."""
        assert isinstance(data, RemoteData)
        return data


def make_client(given: Sequence[str]) -> ClientCLI:
    """Make the client of a command line, of which ``given`` are the arguments after ``mosaic client``."""
    return carry_out(ClientCLI, ["fit", *given])


def client(given: Sequence[str]) -> None:
    """Answer for one client until a signal ends this process.

    Args:
        given: arguments after ``mosaic client``.
    """
    made = make_client(given)
    options: Any = made.config_init.fit
    try:
        with heeding_signals():
            serve(made.resident, options.socket, options.group)
    except Preempted:
        log.info("client %d ends", options.client)
