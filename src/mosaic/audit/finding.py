"""What an audit finds, as plain values."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mosaic.disk import write_whole
from mosaic.errors import MosaicError
from mosaic.runs.facts import is_whole, read_facts

GENERATOR, SEARCH, PROTOTYPES, CLASSIFIER, RELEASE = (
    *("generator, nearest draw", "generator, latent search"),
    *("prototypes, nearest prototype", "classifier, loss drop"),
    "released sums, matched filter",
)
FALSE_POSITIVES = 0.01
FEWEST_OTHERS = round(1 / FALSE_POSITIVES) - 1
"""Others below which no threshold takes as few as 1 % of them for members, by chance too."""


@dataclass(frozen=True)
class Finding:
    """What one attack makes of one client's upload.

    Attributes:
        client: number of the client.
        attack: on what, and how.
        members: images that the upload was learnt from, and that were attacked.
        others: images of the same classes that it was not learnt from.
        auc: see :class:`~mosaic.audit.attacks.Success`.
        rate: likewise.
        null_auc: of the same attack on two halves of the others, where it can find nothing: how far chance alone goes.
    """

    client: int
    attack: str
    members: int
    others: int
    auc: float
    rate: float | None
    null_auc: float


def require_own_file(path: Path) -> None:
    """Refuse a folder, and a file that holds something else than findings, where findings are to be written."""
    try:
        free = not path.exists() or (is_whole(path) and "findings" in read_facts(path))
    except OSError:
        free = False
    if not free:
        raise MosaicError(f"--audit: expected a new file, or one of earlier findings, got {path}: choose another")


def write_findings(path: Path, findings: Sequence[Finding], **facts: object) -> None:
    """Write what an audit has found, and facts about it, as JSON."""
    found = {**facts, "findings": [asdict(finding) for finding in findings]}
    write_whole(path, f"{json.dumps(found, indent=2)}\n".encode())
