"""Where tables of predictions lie."""

from pathlib import Path

import pytest

from mosaic.cli.predictions import table_for, write_predictions
from mosaic.errors import MosaicError


def test_every_checkpoint_of_a_folder_has_its_own_table(tmp_path: Path) -> None:
    tables = [table_for(tmp_path / name) for name in ("global.ckpt", "00.ckpt", "01.ckpt")]
    assert [table.name for table in tables] == ["predictions.csv", "00_predictions.csv", "01_predictions.csv"]
    write_predictions(tables[1], [0, 1], [[0.25, 0.75]], ["cat", "dog"])
    assert tables[1].read_text().splitlines() == ["image,label,guess,cat,dog", "0,cat,dog,0.250000,0.750000"]
    assert table_for(tmp_path / "00.ckpt") == tables[1]
    assert not tables[2].exists()


def test_tables_of_earlier_versions_are_replaced_too_and_other_files_are_not(tmp_path: Path) -> None:
    (tmp_path / "predictions.csv").write_text("image,guess,cat,dog\n")
    assert table_for(tmp_path / "global.ckpt") == tmp_path / "predictions.csv"
    (tmp_path / "predictions.csv").write_text("image,name\n")
    with pytest.raises(MosaicError, match="is no table of mosaic predict: move it away"):
        table_for(tmp_path / "global.ckpt")
