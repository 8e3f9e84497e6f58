"""Run the scripts of notebooks/ and store them as notebooks, with what they printed and drew.

python docs/tools/run_notebooks.py [quickstart ...]     # all when none is named
"""

import sys
from pathlib import Path

import jupytext
import nbclient
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
LIMIT = 600


def run(script: Path) -> NotebookNode:
    """Return a script's cells with their outputs; progress and the log, which differ from run to run, are left out."""
    cells = jupytext.read(script)
    nbclient.NotebookClient(cells, timeout=LIMIT, resources={"metadata": {"path": str(FOLDER)}}).execute()
    cells.metadata = {"kernelspec": cells.metadata["kernelspec"], "language_info": {"name": "python"}}
    for number, cell in enumerate(cells.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return cells


def main() -> None:
    """Run those that are named."""
    for script in sorted(FOLDER.glob("*.py")):
        if script.stem in sys.argv[1:] or not sys.argv[1:]:
            jupytext.write(run(script), script.with_suffix(".ipynb"), fmt="ipynb")


if __name__ == "__main__":
    main()
