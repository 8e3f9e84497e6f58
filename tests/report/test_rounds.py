from pathlib import Path

from mosaic.report.rounds import read_rounds


def test_cells_are_numbers_truths_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("round,distils,accuracy,loss\n1,False,0.25,nan\n2,True,,1e-3\n")
    (tmp_path / "validation.csv").write_text("round,validation_accuracy\n2,0.5\n")
    assert read_rounds(tmp_path) == [
        {"round": 1.0, "distils": 0.0, "accuracy": 0.25, "loss": None},
        {"round": 2.0, "distils": 1.0, "accuracy": None, "loss": 0.001, "validation_accuracy": 0.5},
    ]


def test_without_a_table_there_are_no_rounds(tmp_path: Path) -> None:
    assert read_rounds(tmp_path) == []
