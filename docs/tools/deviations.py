"""The table of all deviations from papers and released code, as the docstrings tell them."""

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

MARKER = "<!-- deviations -->"
WORD = "**Deviation"
ROLE = re.compile(r":\w+:`~?([^`]+)`")
Documented = ast.Module | ast.ClassDef | ast.FunctionDef
"""What has a docstring."""


def table(source: Path) -> list[str]:
    """Return a markdown table: where, and what differs for which reason."""
    lines = [f"| `{where}` | {text} |" for where, text in deviations(source)]
    return ["| where | what differs |", "| --- | --- |", *lines]


def deviations(source: Path) -> Iterator[tuple[str, str]]:
    """Yield the name of what departs from its model, and the docstring's words about it.

    Args:
        source: folder that holds the package.
    """
    for path in sorted(source.rglob("*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"))
        name = ".".join(path.relative_to(source).with_suffix("").parts)
        for node, where in _documented(module, name):
            for argument, text in _told(ast.get_docstring(node) or ""):
                yield ".".join([where.removeprefix("mosaic."), *argument]), text


def _documented(module: ast.Module, name: str) -> Iterator[tuple[Documented, str]]:
    yield module, name
    for node in module.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node, f"{name}.{node.name}"
        if isinstance(node, ast.ClassDef):
            yield from (
                (each, f"{name}.{node.name}.{each.name}") for each in node.body if isinstance(each, ast.FunctionDef)
            )


def _told(docstring: str) -> Iterator[tuple[list[str], str]]:
    """Yield the argument, if it is about one, and each deviation: to the end of the paragraph or to the next one."""
    for block in re.split(r"\n\s*\n|\n(?=\s*\w+(?:, \w+)*: )", docstring):
        text = ROLE.sub(lambda role: f"`{role[1].rsplit('.', 1)[-1]}`", " ".join(block.split())).replace("``", "`")
        starts = [found.start() for found in re.finditer(re.escape(WORD), text)]
        for start, end in pairwise([*starts, len(text)]):
            yield re.findall(r"^(\w+): ", text), _sentence(text, start, end)


def _sentence(text: str, start: int, end: int) -> str:
    """Return a deviation without the word; one inside a parenthesis with the sentence that it belongs to."""
    before, told = text[:start], text[start:end]
    if before.count("(") > before.count(")"):
        begin = max(before.rfind(". ") + 1, before.rfind(": ") + 1, 0)
        whole = text[begin:].split(". ")[0].strip()
        return whole.replace("**Deviation** from", "unlike").replace("|", "\\|")
    return re.sub(r"^\*\*Deviation:?\*\*:?\s*", "", told).strip().replace("|", "\\|")
