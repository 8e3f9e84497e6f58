"""Write one table for terminals, and as Markdown, CSV and LaTeX."""

import csv
import io
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table as TerminalTable

from mosaic.comparison.table import Table


def terminal(table: Table) -> TerminalTable:
    """Return a table for rich whose figures are not wrapped."""
    shown = TerminalTable(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1 if len(table.columns) < 8 else 0, 0, 0))
    rows = [(row.title, *(str(cell).replace(" ± ", "\u00a0±\u00a0") for cell in row.cells)) for row in table.rows]
    for place, column in enumerate(table.columns):
        needed = max(map(len, (*column.split(), *(row[place] for row in rows))))
        shown.add_column(column, justify="right" if place else "left", width=needed if place else None)
    for row in rows:
        shown.add_row(*row)
    return shown


def markdown(table: Table) -> str:
    """Return a Markdown table.

    >>> from mosaic.comparison.table import Figure, Row
    >>> print(markdown(Table(("algorithm", "p"), (Row("fedavg", "fedavg", (Figure(0.1),), ""),))))
    | algorithm | p |
    | --- | ---: |
    | fedavg | 0.10 |
    """
    lines = [table.columns, ("---", *("---:" for _ in table.columns[1:]))]
    lines += [(row.title, *map(str, row.cells)) for row in table.rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def comma_separated(table: Table) -> str:
    """Return a CSV table of unrounded numbers; standard deviations have columns of their own, notes the last."""
    figures = zip(table.columns[1:], zip(*(row.cells for row in table.rows), strict=True), strict=True)
    columns: dict[str, Sequence[object]] = {table.columns[0]: [row.algorithm for row in table.rows]}
    for name, cells in figures:
        columns[name] = [cell.value for cell in cells]
        if any(cell.spread is not None for cell in cells):
            columns[f"{name}, standard deviation"] = [cell.spread for cell in cells]
    columns["note"] = [row.note for row in table.rows]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *zip(*columns.values(), strict=True)])
    return text.getvalue()


def latex(table: Table) -> str:
    """Return a LaTeX table for the package booktabs."""
    from pandas import DataFrame

    frame = DataFrame([(row.title, *map(str, row.cells)) for row in table.rows], columns=list(table.columns))
    escaped = frame.style.hide(axis="index").format(escape="latex").format_index(axis=1, escape="latex")
    text: str = escaped.to_latex(hrules=True, column_format="l".ljust(len(table.columns), "r"))
    return text.replace("±", r"$\pm$") + "".join(f"% {note}\n" for note in table.notes)
