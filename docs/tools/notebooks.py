"""Notebooks as pages: their words, their code, and what it printed and drew when they were run."""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Cell = dict[str, Any]
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def pages(folder: Path) -> dict[str, str | bytes]:
    """Return pages and pictures by their place on the site."""
    found: dict[str, str | bytes] = {}
    for path in sorted(folder.glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        parts = [part for number, cell in enumerate(cells) for part in _parts(cell, f"{path.stem}_{number}", found)]
        origin = f'!!! note "Run it yourself"\n    This page is `notebooks/{path.name}`, as it was last run.'
        found[f"notebooks/{path.stem}.md"] = "\n\n".join([parts[0], origin, *parts[1:]]) + "\n"
    return found


def _parts(cell: Cell, name: str, found: dict[str, str | bytes]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield re.sub(r"\]\(\.\./docs/", "](../", source)
    elif source:
        yield f"```python\n{source}\n```"
        for number, output in enumerate(cell["outputs"]):
            yield from _output(output, f"{name}_{number}", found)


def _output(output: Cell, name: str, found: dict[str, str | bytes]) -> Iterator[str]:
    """Yield one output: a picture, a table, or text."""
    data = output.get("data", {})
    if "image/png" in data:
        found[f"notebooks/{name}.png"] = base64.b64decode("".join(data["image/png"]))
        yield f"![what the code above draws]({name}.png)"
    elif "<table" in "".join(data.get("text/html", "")):
        table = re.sub(r"<style.*?</style>", "", "".join(data["text/html"]), flags=re.DOTALL)
        yield f'<div class="output">{" ".join(table.split())}</div>'
    else:
        text = ESCAPES.sub("", "".join(output.get("text", data.get("text/plain", ""))))
        if text.strip():
            yield f'```text title="Output"\n{text.rstrip()}\n```'
