"""``mosaic audit``: run a simulated federation once more, and attack what every client uploads."""

import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console

from mosaic.audit.client import ClientAudit
from mosaic.audit.finding import Finding
from mosaic.audit.replay import AuditingExecutor
from mosaic.audit.table import audit_table, verdict
from mosaic.cli.lightning import MosaicCLI, carry_out
from mosaic.data.images import Images
from mosaic.disk import write_whole
from mosaic.errors import MosaicError
from mosaic.federation.federation import Federation
from mosaic.federation.job import Job
from mosaic.runs.directory import RunDirectory
from mosaic.seeding import seed_for

log = logging.getLogger(__name__)


class AuditCLI(MosaicCLI):
    """Audits every client where ``fit`` would just run rounds."""

    findings: Sequence[Finding]

    def _fit(self, federation: Federation, job: Job, ckpt_path: str | None) -> None:
        images, generation = job.data.images, job.algorithm.program.generation
        audits = {
            client: ClientAudit(
                client,
                _of(images.train, job.data.client(client).train),
                images.test,
                job.pool,
                generation,
                seed_for(job.seed, 0, client, "audit"),
            )
            for client in range(job.data.num_clients)
        }
        executor = AuditingExecutor(audits, job.executor.threads)
        federation.fit(replace(job, executor=executor))
        self.findings = executor.findings()


def audit(run: Path) -> Path:
    """Run a finished simulation once more, attack every upload as a curious server could, and write audit.json.

    The attacks guess which images a client has trained on; images of the test split are the others.

    Args:
        run: the run's folder.
    """
    directory = RunDirectory(run)
    if not directory.config.is_file():
        raise MosaicError(f"{run} holds no run (config.yaml is missing): expected a folder that mosaic fit has written")
    config: dict[str, Any] = yaml.safe_load(directory.config.read_text())
    with tempfile.TemporaryDirectory(prefix="mosaic-audit-") as folder:
        path, again = Path(folder) / "config.yaml", RunDirectory(Path(folder) / "run")
        config["federation"] |= {"run_dir": str(again.path), "snapshot_every": 10**6}
        path.write_text(yaml.safe_dump({**config, "ckpt_path": None}, sort_keys=False))
        log.info("the rounds of %s are run once more, and every upload is attacked", run)
        cli = carry_out(AuditCLI, ["fit", "--config", str(path)])
        assert isinstance(cli, AuditCLI)
        same = _same_model(directory.checkpoint, again.checkpoint)
    console = Console()
    console.print(audit_table(cli.findings))
    console.print(verdict(cli.findings), highlight=False, soft_wrap=True)
    if same is False:
        log.warning("the rounds ended in another model than %s holds, so its uploads were others too", run)
    output = run / "audit.json"
    found = {"same_run": same, "findings": [finding.values() for finding in cli.findings]}
    write_whole(output, f"{json.dumps(found, indent=2)}\n".encode())
    return output


def _of(images: Images, indices: torch.Tensor) -> Images:
    return Images(images.pixels[indices], images.labels[indices])


def _same_model(one: Path, other: Path) -> bool | None:
    """Whether two checkpoints hold the same weights; nothing where one is missing."""
    if not (one.is_file() and other.is_file()):
        return None
    ours, theirs = (torch.load(path, weights_only=True)["state_dict"] for path in (one, other))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
