"""Read the tables of rounds in a run's folder."""

import csv
from pathlib import Path

Round = dict[str, float | None]
"""Figures of one round by column; None where nothing was measured."""
ACCURACIES = {
    "test_accuracy": "test",
    "own_test_accuracy": "clients' own models, test",
    "validation_accuracy": "clients' validation",
    "worst_validation_accuracy": "worst client, validation",
}
"""Columns with accuracies, and what figures call them."""


def read_rounds(run: Path) -> list[Round]:
    """Return one row for each finished round of a run's folder, in order, with the clients' validation of its model."""
    said = {row["round"]: row for row in _rows(run / "validation.csv")}
    return [{**row, **said.get(row["round"], {})} for row in _rows(run / "metrics.csv")]


def _rows(table: Path) -> list[Round]:
    if not table.is_file():
        return []
    with table.open(newline="") as content:
        return [{key: _number(text) for key, text in row.items()} for row in csv.DictReader(content)]


def _number(text: str) -> float | None:
    """Read a number or a truth value; empty text and nan mean that nothing was measured."""
    if text in ("True", "False"):
        return float(text == "True")
    value = float(text) if text else float("nan")
    return value if value == value else None
