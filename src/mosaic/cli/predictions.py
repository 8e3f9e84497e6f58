"""The table that ``mosaic predict`` writes: label and guess of every test image, and the probability of every class."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from mosaic.disk import make_writable, write_whole
from mosaic.errors import MosaicError

_KEYS = ("image", "label", "guess")


def table_for(checkpoint: Path) -> Path:
    """Return where the table of a checkpoint is to be: beside it.

    Raises:
        MosaicError: something else is there, or the folder is not to be written in.
    """
    path = checkpoint.with_name(
        "predictions.csv" if checkpoint.stem == "global" else f"{checkpoint.stem}_predictions.csv"
    )
    make_writable(path.parent, "--ckpt_path")
    ours = tuple(f"{','.join(keys)},".encode() for keys in (_KEYS, ("image", "guess")))  # as earlier versions wrote
    if path.exists() and not path.read_bytes().startswith(ours):
        raise MosaicError(f"{path} exists and is no table of mosaic predict: move it away")
    return path


def write_predictions(
    path: Path, labels: Sequence[int], probabilities: Sequence[Sequence[float]], class_names: Sequence[str]
) -> None:
    """Write one row for each image: the names of its class and of the most probable one, and all probabilities.

    An older table is replaced.

    Args:
        path: of the table.
        labels: of the images, and maybe of more.
        probabilities: by image and class.
        class_names: names of the classes.
    """
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow([*_KEYS, *class_names])
    for image, (label, row) in enumerate(zip(labels, probabilities, strict=False)):
        guess = class_names[row.index(max(row))]
        writer.writerow([image, class_names[label], guess, *(f"{value:.6f}" for value in row)])
    write_whole(path, table.getvalue().encode())
