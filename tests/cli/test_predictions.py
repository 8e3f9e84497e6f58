"""Where tables of predictions lie."""

from pathlib import Path

from mosaic.cli.predictions import table_for, write_predictions


def test_every_checkpoint_of_a_folder_has_its_own_table(tmp_path: Path) -> None:
    tables = [table_for(tmp_path / name) for name in ("global.ckpt", "00.ckpt", "01.ckpt")]
    assert [table.name for table in tables] == ["predictions.csv", "00_predictions.csv", "01_predictions.csv"]
    write_predictions(tables[1], [[0.25, 0.75]], ["cat", "dog"])
    assert tables[1].read_text().splitlines() == ["image,guess,cat,dog", "0,dog,0.250000,0.750000"]
    assert not tables[2].exists()
