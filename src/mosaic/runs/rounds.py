"""Read the tables of rounds in a run's folder."""

import csv
from pathlib import Path

from mosaic.errors import MosaicError

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
    """Return one row for each finished round of a run's folder, in order, with the clients' validation of its model.

    Raises:
        MosaicError: a table is damaged.
    """
    said = {row["round"]: row for row in _rows(run / "validation.csv")}
    return [{**row, **said.get(row["round"], {})} for row in _rows(run / "metrics.csv")]


def _rows(table: Path) -> list[Round]:
    if not table.is_file() or table.stat().st_size == 0:
        return []
    try:
        text = table.read_text("utf-8")
        if not text.endswith("\n"):
            raise ValueError("its last line is cut off")
        head, *rows = csv.reader(text.splitlines())
        read = [{key: _number(cell) for key, cell in zip(head, row, strict=True)} for row in rows]
        if any(row["round"] is None for row in read):
            raise ValueError("a round has no number")
    except (ValueError, KeyError, csv.Error) as error:
        raise MosaicError(f"{table} is damaged ({error}): restore it from a copy") from error
    return read


def _number(text: str) -> float | None:
    """Read a number or a truth value; empty text and nan mean that nothing was measured."""
    if text in ("True", "False"):
        return float(text == "True")
    value = float(text) if text else float("nan")
    return value if value == value else None
