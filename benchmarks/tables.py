"""Markdown tables, and the blocks of pages that hold them."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path


def mean_and_error(values: Sequence[float], signed: bool = False) -> str:
    """Return per cent with the standard error of the mean, where there are several."""
    sign = "+" if signed else ""
    text = f"{100 * statistics.mean(values):{sign}.2f}"
    if len(values) < 2:
        return text
    return f"{text} ± {100 * statistics.stdev(values) / len(values) ** 0.5:.2f}"


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """Return a markdown table; the first column is text, the others are figures."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return [f"| {' | '.join(cells)} |" for cells in (header, rule, *lines)]


def replace_blocks(page: Path, blocks: Mapping[str, Sequence[str]]) -> None:
    """Replace what stands between a page's markers; the words around them are written by hand."""
    text = page.read_text()
    for name, lines in blocks.items():
        start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, rest = text.split(start)
        text = "\n".join([before + start, "", *lines, "", end]) + rest.split(end)[1]
    page.write_text(text)
