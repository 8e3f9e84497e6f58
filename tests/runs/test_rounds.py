from pathlib import Path

import pytest

from mosaic.errors import MosaicError
from mosaic.runs.rounds import read_rounds


def test_cells_are_numbers_truths_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("round,distils,accuracy,loss\n1,False,0.25,nan\n2,True,,1e-3\n")
    (tmp_path / "validation.csv").write_text("round,validation_accuracy\n2,0.5\n")
    assert read_rounds(tmp_path) == [
        {"round": 1.0, "distils": 0.0, "accuracy": 0.25, "loss": None},
        {"round": 2.0, "distils": 1.0, "accuracy": None, "loss": 0.001, "validation_accuracy": 0.5},
    ]


def test_without_a_table_there_are_no_rounds(tmp_path: Path) -> None:
    assert read_rounds(tmp_path) == []
    (tmp_path / "metrics.csv").touch()
    assert read_rounds(tmp_path) == []


@pytest.mark.parametrize("table", ["metrics.csv", "validation.csv"])
@pytest.mark.parametrize(
    "text",
    [
        pytest.param("round,loss\n1,0.5\n2,0.", id="cut"),
        pytest.param("round,loss\n1,0.5\n2\n", id="short row"),
        pytest.param("round,loss\n1,0.5,3\n", id="long row"),
        pytest.param("round,loss\n,0.5\n", id="no number"),
        pytest.param("round,loss\n1,half\n", id="words"),
        pytest.param("loss\n0.5\n", id="no column of rounds"),
        pytest.param("round,loss\n1,\x00\n", id="zeros"),
    ],
)
def test_damaged_tables_are_refused(tmp_path: Path, table: str, text: str) -> None:
    (tmp_path / "metrics.csv").write_text("round,loss\n1,0.5\n")
    (tmp_path / table).write_text(text)
    with pytest.raises(MosaicError, match=rf"{table} is damaged \(.*\): restore it from a copy"):
        read_rounds(tmp_path)
