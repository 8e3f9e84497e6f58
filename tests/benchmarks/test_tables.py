"""The tables in the pages are those of the results in the repository, as the programs that wrote them read them."""

import shutil
from pathlib import Path

import pytest

from tests.runs import REPOSITORY

PAGES = ["README.md", "docs/ablation.md", "docs/results.md"]


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks are programs beside the package: they import one another by name."""
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")


@pytest.fixture
def emptied(tmp_path: Path) -> Path:
    """Copies of the pages whose tables have lost their lines."""
    (tmp_path / "docs").mkdir()
    for page in PAGES:
        shutil.copy(REPOSITORY / page, tmp_path / page)
        lines = (REPOSITORY / page).read_text().splitlines(keepends=True)
        (tmp_path / page).write_text("".join(line for line in lines if not line.startswith("| ")))
    return tmp_path


def test_pages_hold_the_tables_of_the_results(emptied: Path) -> None:
    import ablation
    import ablation_table
    import results

    ablation_table.write_tables(*ablation.load_plan(), ablation.RESULTS, emptied)
    results.write_tables(emptied)
    for page in ("docs/ablation.md", "docs/results.md"):
        assert (emptied / page).read_text() == (REPOSITORY / page).read_text()
    tables = [line for line in (REPOSITORY / "README.md").read_text().splitlines() if line.startswith("| ")]
    assert set((emptied / "README.md").read_text().splitlines()) & set(tables)


def test_a_finished_row_is_not_run_again_unless_its_flags_have_changed() -> None:
    import ablation

    arguments = ablation.load_plan()[1]["digits-0.05"].run_arguments(ablation.row_called("default"), 0)
    asked = ("digits-0.05", "default", 0, ablation.RESULTS)
    assert ablation.find_result(*asked, arguments)["seed"] == 0
    assert ablation.find_result(*asked, [*arguments, "--data.batch_size=1"]) is None
    assert ablation.find_result("digits-0.05", "default", 77, ablation.RESULTS, arguments) is None
