"""``mosaic audit``: run a simulated federation once more, and attack what every client uploads."""

import logging
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from mosaic.audit.client import ClientAudit
from mosaic.audit.executor import AuditingExecutor
from mosaic.audit.finding import write_findings
from mosaic.cli.lightning import MosaicCLI, parse_and_run_config
from mosaic.comparison.request import require_simulation
from mosaic.disk import make_writable
from mosaic.errors import MosaicError
from mosaic.federation.job import Job
from mosaic.privacy.ledger import answers_gone, booked
from mosaic.report.audit_table import show
from mosaic.runs.checkpoint import same_weights
from mosaic.runs.directory import RunDirectory
from mosaic.runs.facts import read_facts
from mosaic.seeding import seed_for
from mosaic.training.silence import expected_warnings
from mosaic.yaml_files import read_yaml

log = logging.getLogger(__name__)
_ONE_DEVICE = {"devices": 1, "num_nodes": 1, "strategy": "auto"}
"""Settings of the Trainer: for several devices Lightning would start this command anew, and all would write."""


def audit(run: Path) -> Path:
    """Run a finished simulation once more, attack every upload as a curious server could, and write audit.json.

    The attacks guess which images a client has trained on; images of the test split are the others. Phases use one
    device, also where the run's used several: its models are then others in their last digits, which is said.

    Args:
        run: the run's folder.

    Raises:
        MosaicError: it holds no finished simulation, or its clients' ledgers are gone.
    """
    directory = RunDirectory(run)
    config = directory.read_config()
    if not (facts := read_facts(directory.summary)):
        raise MosaicError(
            f"mosaic audit: expected a finished run, got {run} without summary.json: --ckpt_path auto goes on with it"
        )
    ledgers = directory.ledgers  # of which a copy is asked again, since what the run has spent is over
    told = ((facts.get("privacy") or {}).get("spent") or {}).get("clients", 0)
    if (held := len(booked(ledgers))) < told:
        raise MosaicError(
            f"mosaic audit: expected the privacy ledgers of {told} clients, which the run has left in {ledgers}, got "
            f"{held}: restore them from a copy: without them clients would answer with other noise"
        )
    if gone := answers_gone(ledgers):
        raise MosaicError(
            f"mosaic audit: expected a run whose clients keep what they have answered under their privacy budgets, got "
            f"{gone} answers that are gone: a run with federation.snapshot_every of all its rounds keeps them"
        )
    make_writable(run, "mosaic audit")
    read_yaml(directory.config)  # of Python objects nothing can be run once more
    require_simulation(config, "mosaic audit")
    with tempfile.TemporaryDirectory(prefix="mosaic-audit-") as folder:
        again = RunDirectory(Path(folder) / "run")
        config["federation"] |= {"run_dir": str(again.path), "snapshot_every": 10**6, "loggers": []}
        config["trainer"] = (config.get("trainer") or {}) | _ONE_DEVICE
        log.info("the rounds of %s are run once more, and every upload is attacked", run)

        cli = parse_and_run_config(MosaicCLI, {**config, "ckpt_path": None})
        if cli.job.algorithm.gathers_data:
            raise MosaicError(
                f"mosaic audit: expected an algorithm whose clients train on their own images, got "
                f"{type(cli.job.algorithm).__name__}, which brings all images to one place: audit another run"
            )
        executor = AuditingExecutor(_audits(cli.job), cli.job.executor)
        kept = Path(folder) / ledgers.name
        if ledgers.is_dir():
            shutil.copytree(ledgers, kept)
        with expected_warnings():
            cli.federation.run(replace(cli.job, executor=executor, ledgers=kept))
        pairs = _checkpoints(directory, again, cli.job.data.num_clients)
        same = all(same_weights(*pair) for pair in pairs) if pairs else None
    findings = executor.findings()
    if not findings and config.get("privacy"):
        raise MosaicError(
            f"mosaic audit: expected clients to answer as in {run}, got none that did: the lines above say why; under "
            "another version of mosaic or dp-accounting, which needs other noise, their budgets have nothing left"
        )
    show(findings)
    if same is False:
        log.warning(
            "the rounds ended in another model than %s holds, so its uploads were others too: in their last digits on "
            "another machine, and where clients had trained side by side or on several devices",
            run,
        )
    write_findings(directory.audit, findings, same_run=same)
    return directory.audit


def _checkpoints(first: RunDirectory, again: RunDirectory, clients: int) -> list[tuple[Path, Path]]:
    """Return the models, global and clients' own, that two runs have both left."""
    pairs = [(first.checkpoint, again.checkpoint)]
    pairs += [(first.client_checkpoint(client), again.client_checkpoint(client)) for client in range(clients)]
    return [pair for pair in pairs if all(path.is_file() for path in pair)]


def _audits(job: Job) -> dict[int, ClientAudit]:
    """Return the audit of every client."""
    images, generation = job.data.images, job.algorithm.program.generation
    return {
        client: ClientAudit(
            client,
            images.train.at(job.data.client(client).train),
            images.test,
            job.pool,
            generation,
            seed_for(job.seed, 0, client, "audit"),
            job.budget,
        )
        for client in range(job.data.num_clients)
    }
