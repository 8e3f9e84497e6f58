"""Notebooks run from top to bottom, and are what their scripts say, with what these have printed and drawn."""

from pathlib import Path

import jupytext
import nbclient
import pytest

from tests.small_runs import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


def sources(path: Path) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_its_script_with_outputs(notebook: Path) -> None:
    assert sources(notebook) == sources(notebook.with_suffix(".py")), "run `make notebooks`"
    code = [cell for cell in jupytext.read(notebook).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code), "run `make notebooks`, which stores outputs"
    assert any(cell.outputs for cell in code)


def test_every_script_has_its_notebook() -> None:
    assert [path.stem for path in NOTEBOOKS] == sorted(path.stem for path in (REPOSITORY / "notebooks").glob("*.py"))


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # of jupyter_client on Python 3.11: jupyter/jupyter_client#1015
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook: Path) -> None:
    cells = jupytext.read(notebook)
    nbclient.NotebookClient(cells, timeout=600, resources={"metadata": {"path": str(notebook.parent)}}).execute()
    assert all(output.output_type != "error" for cell in cells.cells for output in cell.get("outputs", []))
