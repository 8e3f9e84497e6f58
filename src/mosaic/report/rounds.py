"""The table of rounds that a run leaves."""

import csv
from pathlib import Path

Round = dict[str, float | None]
"""Figures of one round by column; nothing where none was measured."""


def read_rounds(metrics: Path) -> list[Round]:
    """Return one row for each finished round, in order; none where there is no such file.

    Args:
        metrics: a run's metrics.csv.
    """
    if not metrics.is_file():
        return []
    with metrics.open(newline="") as content:
        return [{key: _number(text) for key, text in row.items()} for row in csv.DictReader(content)]


def _number(text: str) -> float | None:
    """Read a number or a truth; nothing and nan mean that nothing was measured."""
    if text in ("True", "False"):
        return float(text == "True")
    value = float(text) if text else float("nan")
    return value if value == value else None
