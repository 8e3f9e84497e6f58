"""The table that ``mosaic predict`` writes: a guess for every test image, and the probability of every class."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from mosaic.disk import make_writable, write_whole
from mosaic.errors import MosaicError

_KEYS = ("image", "guess")


def table_for(checkpoint: Path) -> Path:
    """Return where the table of a checkpoint is to be: beside it.

    Raises:
        MosaicError: something else is there, or the folder is not to be written in.
    """
    path = checkpoint.with_name(
        "predictions.csv" if checkpoint.stem == "global" else f"{checkpoint.stem}_predictions.csv"
    )
    make_writable(path.parent, "--ckpt_path")
    if path.exists() and not path.read_bytes().startswith(f"{','.join(_KEYS)},".encode()):
        raise MosaicError(f"{path} exists and is no table of mosaic predict: move it away")
    return path


def write_predictions(path: Path, probabilities: Sequence[Sequence[float]], class_names: Sequence[str]) -> None:
    """Write one row for each image, of probabilities by class, with the name of the most probable one."""
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow([*_KEYS, *class_names])
    for image, row in enumerate(probabilities):
        writer.writerow([image, class_names[row.index(max(row))], *(f"{value:.6f}" for value in row)])
    write_whole(path, table.getvalue().encode())
