"""``mosaic client``: the resident process of one client of a federation whose clients are on hosts of their own."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.cli import LightningArgumentParser

from mosaic.audit.client import ClientAudit
from mosaic.audit.finding import require_own_file, write_findings
from mosaic.cli.lightning import MosaicCLI, parse_and_run
from mosaic.data import FederatedDataModule, Remote, RemoteData
from mosaic.data.images import Images
from mosaic.data.remote import Statistics
from mosaic.deployment.memory import require_own
from mosaic.deployment.resident import Resident, listening, serve
from mosaic.disk import lock, make_writable, naming_disk
from mosaic.errors import MosaicError, require_positive
from mosaic.executors import ClientExecutor
from mosaic.executors.agreement import agreement
from mosaic.messages import Reply, Request
from mosaic.report.audit_table import show
from mosaic.runs.facts import read_facts
from mosaic.seeding import seed_for
from mosaic.tasks.global_classifier import GlobalClassifier
from mosaic.training.signals import Preempted, heeding_signals

log = logging.getLogger(__name__)
FEW_IMAGES = 100
"""Below it, at least one attack of the audits in docs/privacy.md reached an area of 0.7 on nearly every client."""


def add_own_arguments(parser: ArgumentParser) -> None:
    """Add what ``mosaic client`` takes beside the sections of a configuration."""
    parser.add_argument("--client", type=int, required=True, help="number of this client, from 0")
    parser.add_argument("--socket", type=Path, default=Path("client.sock"), help="Unix socket to listen on")
    parser.add_argument("--group", type=str, help="group of the operating system that may connect, too")
    parser.add_argument("--folder", type=Path, default=Path("memory"), help="where to remember runs")
    parser.add_argument("--keep_rounds", type=int, default=10, help="rounds of a run to remember")
    parser.add_argument("--audit", type=Path, help="file for what all uploads reveal about this client's images")


class ClientCLI(MosaicCLI):
    """Parses what ``fit`` parses, and makes what answers for one client where ``fit`` would run rounds."""

    description = "answer for one client until a signal ends this process"
    resident: Resident
    audit: ClientAudit | None = None

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add who this client is, and where it listens and remembers."""
        super().add_arguments_to_parser(parser)
        add_own_arguments(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse them, under the name that the user has called."""
        self._parser("fit").prog = "mosaic client"
        super().parse_arguments(parser, args)

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
        if given.audit is not None:
            require_own_file(Path(given.audit))
        if not isinstance(datamodule.partition, Remote):
            raise MosaicError(
                "data.partition: expected mosaic.data.Remote, which says what all parties have agreed on, got "
                f"{type(datamodule.partition).__name__}: a simulation has no clients of its own"
            )
        self._require_one_process()
        private = self._privacy(datamodule) is not None
        data = RemoteData(datamodule, given.client)
        data.setup("fit")
        train, validation = data.splits[given.client]
        audited = None if given.audit is None else _audited(data, private)
        told = data.statistics

        def worker(statistics: Statistics) -> Any:
            data.mean, data.std = map(list, statistics)
            job = self._job(model, data)
            if audited is not None and self.audit is None:
                generation, seed = job.algorithm.program.generation, seed_for(job.seed, 0, given.client, "audit")
                self.audit = ClientAudit(given.client, *audited, job.pool, generation, seed, job.budget)
            return job.worker()

        if told is not None:
            worker(told)  # so that a configuration that cannot work fails now
        judging = self._get(self.config_init, "federation").judging
        keeps = given.folder, given.keep_rounds
        self.resident = Resident(data, agreement(self._written()), worker, *keeps, judging, private, self._see)
        if given.audit is not None:
            make_writable(Path(given.audit).absolute().parent, "--audit")
        log.info("client %d: %d images to train on, %d to validate on", given.client, len(train), len(validation))
        if len(train) < FEW_IMAGES:
            log.warning(
                "client %d: it trains on %d images; of clients with fewer than %d, audits could tell many images from "
                "others by what they sent: see docs/privacy.md, and mosaic client --audit",
                *(given.client, len(train), FEW_IMAGES),
            )

    def _see(self, request: Request, reply: Reply) -> None:
        if self.audit is not None:
            self.audit.see(request, reply)

    def _ledgers(self, config: Mapping[str, Any]) -> Path:
        """Return the folder of this client's ledger, which holds for all runs: its images are the same in each."""
        given: Any = self.config_init.fit
        return Path(given.folder) / "privacy"

    def _remote(self, data: FederatedDataModule, executor: ClientExecutor, config: dict[str, Any]) -> RemoteData:
        """Return the data as they are; the server alone asks around."""
        assert isinstance(data, RemoteData)
        return data


def _audited(data: RemoteData, private: bool) -> tuple[Images, Images]:
    """Return the images that a client trains on, and others; with a privacy budget it uses those to validate on too.

    Raises:
        MosaicError: with a budget, its source has no others.
    """
    images = data.images.train
    if private:
        return images, data.unused()
    train, validation = (images.at(torch.from_numpy(held)) for held in data.splits[data.own_client or 0])
    return train, validation


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Refuse a folder in which another client remembers its runs."""
    make_writable(folder, "--folder")
    held = lock(folder / ".lock", f"--folder: another client remembers its runs in {folder}: give each its own")
    try:
        yield
    finally:
        held.release()


def make_client(given: Sequence[str]) -> ClientCLI:
    """Make the client of a command line, of which ``given`` are the arguments after ``mosaic client``."""
    return parse_and_run(ClientCLI, ["fit", *given])


def client(given: Sequence[str]) -> None:
    """Answer for one client until a signal ends this process.

    Args:
        given: arguments after ``mosaic client``.
    """
    made = make_client(given)
    options: Any = made.config_init.fit
    try:
        with heeding_signals(), listening(options.socket, options.group) as listener, _alone_in(options.folder):
            require_own(options.folder, options.client, made.resident.images)
            serve(made.resident, listener)
    except Preempted:
        if made.audit is not None:
            _tell(made.audit, options.audit)
        log.info("client %d ends", options.client)


def _tell(audit: ClientAudit, file: Path) -> None:
    """Show what an audit has found, and write it beside what earlier processes of the client have found."""
    findings = audit.findings([])
    if not findings:
        log.warning("audit: nothing that was sent since the start could be attacked, so %s stays as it is", file)
        return
    show(findings)
    before = read_facts(file)
    earlier = [*before.get("earlier", ()), *([before["findings"]] if before.get("findings") else ())]
    with naming_disk(file.parent):
        write_findings(file, findings, **({"earlier": earlier} if earlier else {}))
