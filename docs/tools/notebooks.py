"""Notebooks as pages: their words, their code, and what it printed and drew when they were run."""

import base64
import json
import re
from collections.abc import Iterator
from itertools import groupby
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
        for kind, outputs in groupby(cell["outputs"], key=_kind):
            yield from _shown(kind, list(outputs), name, found)


def _kind(output: Cell) -> str:
    """Return how an output is shown: as a picture, a table, or text."""
    data = output.get("data", {})
    if "image/png" in data:
        return "picture"
    return "table" if "<table" in "".join(data.get("text/html", "")) else "text"


def _shown(kind: str, outputs: list[Cell], name: str, found: dict[str, str | bytes]) -> Iterator[str]:
    """Yield neighbouring outputs of one kind; texts become one."""
    match kind:
        case "picture":
            for output in outputs:
                place = f"{name}_{len(found)}.png"
                found[f"notebooks/{place}"] = base64.b64decode("".join(output["data"]["image/png"]))
                yield f"![what the code above draws]({place})"
        case "table":
            for output in outputs:
                table = re.sub(r"<style.*?</style>", "", "".join(output["data"]["text/html"]), flags=re.DOTALL)
                yield f'<div class="output">{" ".join(table.split())}</div>'
        case _:
            lines = [line for output in outputs for line in _text(output).splitlines() if line.strip()]
            if lines:
                yield "\n".join(['```text title="Output"', *lines, "```"])


def _text(output: Cell) -> str:
    text = "".join(output.get("text", output.get("data", {}).get("text/plain", "")))
    return ESCAPES.sub("", text)
