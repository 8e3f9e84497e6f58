"""The tables of rounds that a run leaves."""

import csv
from pathlib import Path

Round = dict[str, float | None]
"""Figures of one round by column; nothing where none was measured."""


def read_rounds(run: Path) -> list[Round]:
    """Return one row for each finished round, in order, with what clients say of its model; none where nothing is left.

    Args:
        run: a run's folder.
    """
    said = {row["round"]: row for row in _rows(run / "validation.csv")}
    return [{**row, **said.get(row["round"], {})} for row in _rows(run / "metrics.csv")]


def _rows(table: Path) -> list[Round]:
    if not table.is_file():
        return []
    with table.open(newline="") as content:
        return [{key: _number(text) for key, text in row.items()} for row in csv.DictReader(content)]


def _number(text: str) -> float | None:
    """Read a number or a truth; nothing and nan mean that nothing was measured."""
    if text in ("True", "False"):
        return float(text == "True")
    value = float(text) if text else float("nan")
    return value if value == value else None
