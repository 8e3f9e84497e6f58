"""The tables in the pages are those of the results in the repository, as the program that wrote them reads them."""

import re
import shutil
from pathlib import Path

import pytest

from tests.small_runs import REPOSITORY

PAGES = ["README.md", "docs/results.md", "docs/clients.md", "docs/ablation.md", "docs/faults.md", "docs/privacy.md"]


@pytest.fixture
def emptied(tmp_path: Path) -> Path:
    """Copies of the pages whose tables have lost their lines."""
    (tmp_path / "docs").mkdir()
    for page in PAGES:
        shutil.copy(REPOSITORY / page, tmp_path / page)
        text = (REPOSITORY / page).read_text()
        (tmp_path / page).write_text(re.sub(r"(?s)(<!-- ([\w ]+) -->).*?(<!-- end of \2 -->)", r"\1\3", text))
    return tmp_path


def test_pages_hold_the_tables_of_the_results(emptied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import missing_clients
    import results

    import privacy

    results.write_tables(emptied)
    for benchmark in (missing_clients, privacy):
        monkeypatch.setattr(benchmark, "ROOT", emptied)
        benchmark.write_table()
    for page in PAGES:
        assert (emptied / page).read_text() == (REPOSITORY / page).read_text(), page


def test_fedavg_gets_mosaics_time_counted_in_local_training() -> None:
    import results

    longer = results.in_the_same_time("digits-0.05")
    assert longer is not None
    rounds = longer.schedule.collaborative + longer.schedule.fine_tune
    took = {
        row: [
            (each.summary["seconds"] - each.summary["phases"]["evaluation"]) / each.summary["phases"]["local training"]
            for each in results.of_row("digits-0.05", row)
        ]
        for row in (results.MOSAIC, "fedavg")
    }
    assert rounds == round(13 * sum(took[results.MOSAIC]) / sum(took["fedavg"]))
    assert rounds > 13
    assert results.in_the_same_time("digits-0.05-one-shot") is None
    assert results.in_the_same_time("digits-0.05-released") is None


def test_every_setting_names_files_that_are_there() -> None:
    import results

    named = {setting.config for setting in results.SETTINGS.values()}
    named.update(overlay for setting in results.SETTINGS.values() for overlay in setting.overlays)
    missing = [name for name in sorted(named) if not (REPOSITORY / "configs" / f"{name}.yaml").is_file()]
    assert not missing
