"""Write one table for terminals, and as Markdown, CSV and LaTeX."""

import csv
import io

from rich.box import SIMPLE_HEAD
from rich.table import Table as TerminalTable

from mosaic.comparison.table import DASH, Table

_SPREAD = ", standard deviation"


def terminal(table: Table) -> TerminalTable:
    """Return a table for rich whose figures are not wrapped."""
    shown = TerminalTable(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1 if len(table.columns) < 8 else 0, 0, 0))
    rows = [(row.title, *(cell.replace(" ± ", "\u00a0±\u00a0") for cell in row.cells)) for row in table.rows]
    for place, column in enumerate(table.columns):
        needed = max(map(len, (*column.split(), *(row[place] for row in rows))))
        shown.add_column(column, justify="right" if place else "left", width=needed if place else None)
    for row in rows:
        shown.add_row(*row)
    return shown


def markdown(table: Table) -> str:
    """Return a Markdown table.

    >>> from mosaic.comparison.table import Row
    >>> print(markdown(Table(("algorithm", "p"), (Row("fedavg", "fedavg", ("0.1",), ""),))))
    | algorithm | p |
    | --- | ---: |
    | fedavg | 0.1 |
    """
    lines = [table.columns, ("---", *("---:" for _ in table.columns[1:]))]
    lines += [(row.title, *row.cells) for row in table.rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def comma_separated(table: Table) -> str:
    """Return a CSV table; means and standard deviations, where there are any, are separate columns; notes the last."""
    rows = [[row.algorithm, *(part for cell in row.cells for part in _split(cell)), row.note] for row in table.rows]
    columns = [part for name in table.columns[1:] for part in (name, f"{name}{_SPREAD}")]
    wide = [[table.columns[0], *columns, "note"], *rows]
    spreads = [place for place, name in enumerate(wide[0]) if name.endswith(_SPREAD)]
    used = [place for place in range(len(wide[0])) if place not in spreads or any(row[place] for row in wide[1:])]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([[row[place] for place in used] for row in wide])
    return text.getvalue()


def latex(table: Table) -> str:
    """Return a LaTeX table for the package booktabs."""
    from pandas import DataFrame

    frame = DataFrame([(row.title, *row.cells) for row in table.rows], columns=list(table.columns))
    escaped = frame.style.hide(axis="index").format(escape="latex").format_index(axis=1, escape="latex")
    text: str = escaped.to_latex(hrules=True, column_format="l".ljust(len(table.columns), "r"))
    return text.replace("±", r"$\pm$") + "".join(f"% {note}\n" for note in table.notes)


def _split(cell: str) -> tuple[str, str]:
    """Take mean and standard deviation apart; a dash is an empty cell."""
    mean, _, spread = cell.replace(",", "").partition(" ± ")
    return ("" if mean == DASH else mean), spread
