"""``mosaic partition``: show and write which client holds which images, without training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mosaic.cli.sections import SECTIONS, MosaicParser
from mosaic.data import FederatedDataModule
from mosaic.disk import make_writable, write_whole
from mosaic.errors import MosaicError
from mosaic.runs.figures import partition_heat_map

DESCRIPTION = "Show who holds what: a table, indices and a heat map, without training. Takes what fit takes."
MAX_CLASS_COLUMNS = 20
"""With more classes, a client's row counts its classes and not the images of each."""
MAX_ROWS = 100
"""With more clients, the table leaves the rest to ``partition.json``."""
UNUSED = sorted({*SECTIONS, "seed_everything", "trainer", "ckpt_path", "weights_only"} - {"data"})
"""Top-level keys of ``fit`` that are accepted and ignored, so that its files and flags can be given unchanged."""


def partition(args: Sequence[str]) -> None:
    """Print the client-by-class table, and write ``partition.json`` and the heat map ``partition.png``.

    Args:
        args: what ``fit`` takes, and ``--output`` with the folder to write into.

    Raises:
        MosaicError: the files exist already, or the data cannot be read or split as asked; nothing was written.
    """
    parser = MosaicParser(prog="mosaic partition", description=DESCRIPTION)
    parser.add_argument("-c", "--config", action=ActionConfigFile, help="configuration of fit; may be repeated")
    parser.add_argument("--output", default="partition", help="new folder for partition.json and partition.png")
    parser.add_lightning_class_args(FederatedDataModule, "data")
    for key in UNUSED:
        parser.add_argument(f"--{key}", type=dict[str, Any] | Any, help="as in fit; not used here")
    config = parser.parse_args(list(args))
    data: FederatedDataModule = parser.instantiate(config).data
    output = Path(config.output)
    indices, picture = output / "partition.json", output / "partition.png"
    taken = [path for path in (indices, picture) if path.exists()]
    if taken or (output.exists() and not output.is_dir()):
        raise MosaicError(
            f"--output {output}: {(taken or [output])[0]} exists and is never overwritten: choose another folder with "
            "--output, or move it away"
        )
    data.setup("fit")
    make_writable(output, "--output")
    counts, names = data.class_counts.numpy(), data.images.class_names
    validation = np.array([len(client.validation) for client in data.splits])
    console = Console()
    print_partition(counts, validation, names, len(data.images.train), console)
    data.write_partition(indices)
    write_whole(picture, partition_heat_map(counts, names).png())
    console.print(f"Indices:  {indices}\nHeat map: {picture}", highlight=False, soft_wrap=True)


def print_partition(
    counts: np.ndarray, validation: np.ndarray, class_names: tuple[str, ...], num_images: int, console: Console
) -> None:
    """Print images per client and class where there are few classes, else each client's largest class.

    Args:
        counts: images to train on, shape ``(N, C)``.
        validation: images to validate on, shape ``(N,)``.
        class_names: C names.
        num_images: of the training set, dealt or not.
        console: where to print.
    """
    make_table = _class_table if len(class_names) <= MAX_CLASS_COLUMNS else _largest_class_table
    table = make_table(counts, validation, class_names)
    console.print("\n[bold]Images to train on, by client[/bold]", highlight=False)
    least = console.measure(table, options=console.options.update(width=10_000)).minimum
    console.width = max(console.width, least)  # names of classes are folded, numbers never: it may be a wide table
    console.print(table, crop=False)
    if len(counts) > MAX_ROWS:
        console.print(f"and {len(counts) - MAX_ROWS} more, which partition.json holds", highlight=False)
    sizes, dealt = counts.sum(1), int(counts.sum() + validation.sum())
    console.print(
        f"{len(counts)} clients hold {dealt} of {num_images} training images, {int(validation.sum())} of them to "
        f"validate on; images to train on: {sizes.min()} at the smallest client, {sizes.max()} at the largest",
        highlight=False,
        soft_wrap=True,
    )


def _class_table(counts: np.ndarray, validation: np.ndarray, class_names: tuple[str, ...]) -> Table:
    rows = [[*row, sum(row), held] for row, held in zip(counts.tolist(), validation.tolist(), strict=True)]
    return _table([*class_names, "all", "validation"], rows, np.sum(rows, axis=0).tolist())


def _largest_class_table(counts: np.ndarray, validation: np.ndarray, class_names: tuple[str, ...]) -> Table:
    def summary(row: np.ndarray, held: int) -> list[int | str]:
        largest = int(row.argmax())
        return [int(row.sum()), held, int((row > 0).sum()), class_names[largest], int(row[largest])]

    rows = [summary(row, held) for row, held in zip(counts, validation.tolist(), strict=True)]
    columns = ["images", "validation", "classes", "largest class", "its images"]
    return _table(columns, rows, summary(counts.sum(0), int(validation.sum())))


def _table(columns: Sequence[str], rows: Sequence[Sequence[int | str]], sums: Sequence[int | str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("client", justify="right", no_wrap=True)
    for column, total in zip(columns, sums, strict=True):
        table.add_column(escape(column), justify="right", overflow="fold", min_width=len(str(total)))
    for client, row in enumerate(rows[:MAX_ROWS]):
        table.add_row(str(client), *("·" if value == 0 else escape(str(value)) for value in row))
    table.add_section()
    table.add_row("all", *(escape(str(value)) for value in sums), style="bold")
    return table
