"""What a client's own audit leaves on disk."""

import json
from pathlib import Path
from typing import Any, cast

import pytest

from mosaic.audit.finding import Finding
from mosaic.cli.client import _tell

FOUND = Finding(client=0, attack="classifier", members=9, others=9, auc=0.6, rate=0.1, null_auc=0.5)


class Audit:
    """Stands for an audit with these findings."""

    def __init__(self, *found: Finding) -> None:
        self.found = list(found)

    def findings(self, references: object) -> list[Finding]:
        return self.found


def tell(file: Path, *found: Finding) -> Any:
    _tell(cast(Any, Audit(*found)), file)
    return json.loads(file.read_text()) if file.exists() else None


def test_what_earlier_processes_of_a_client_have_found_stays(tmp_path: Path) -> None:
    file = tmp_path / "audit.json"
    first = tell(file, FOUND)
    assert "earlier" not in first
    second = tell(file, FOUND, FOUND)
    assert (len(second["findings"]), second["earlier"]) == (2, [first["findings"]])
    assert tell(file, FOUND)["earlier"] == [first["findings"], second["findings"]]


def test_an_audit_of_nothing_writes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert tell(tmp_path / "audit.json") is None
    kept = tell(tmp_path / "audit.json", FOUND)
    assert tell(tmp_path / "audit.json") == kept
    assert "nothing that was sent since the start could be attacked" in caplog.text
