"""Images from parquet files."""

import json
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from mosaic.data.checks import check_labels
from mosaic.data.sources.base import Found, PictureSource
from mosaic.data.sources.classes import Names, agreed
from mosaic.data.sources.columns import values_of
from mosaic.data.sources.files import file_identity, find_files, origin_of, readable
from mosaic.data.sources.pictures import Pictures, encoded_rows, make_pictures
from mosaic.errors import MosaicError, first_line

log = logging.getLogger(__name__)
BLOCK_ROWS = 256


class ParquetSource(PictureSource):
    """Parquet files with an image column and a label column, in the format of the Hugging Face hub.

    Images are stored compressed as ``{"bytes", "path"}``, or as plain bytes; they are decoded once, when loading.

    Args:
        train: path of the training file, or a pattern such as ``food101/train-*.parquet`` for several.
        test: path of the test file, or a pattern.
        image_column: name of the image column.
        label_column: name of the label column.
        group_columns: names of other columns to keep as groups, such as ``writer_id``.
        train_md5: md5 of the training file, compared before it is read.
        test_md5: md5 of the test file.
        settings: ``resize``, ``channels``, ``memory_limit_gib`` and ``cache_dir`` of :class:`PictureSource`.
    """

    def __init__(
        self,
        train: str,
        test: str,
        image_column: str = "image",
        label_column: str = "label",
        group_columns: list[str] | None = None,
        train_md5: str | None = None,
        test_md5: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.train, self.test = train, test
        self.image_column, self.label_column = image_column, label_column
        self.group_columns = group_columns or []
        self.train_md5, self.test_md5 = train_md5, test_md5

    def find(self) -> Found:
        """Read the labels of both splits."""
        splits = (self.train, "train"), (self.test, "test")
        own, others = ({path.resolve() for path in find_files(*of)} for of in splits)
        if both := sorted(own & others):
            log.warning("%s: is trained on and tested on too, so accuracies on it tell nothing", both[0])
        train, names = self._split(self.train, "train", self.train_md5)
        test, test_names = self._split(self.test, "test", self.test_md5)
        return Found(train, test, names, test_names)

    def _split(self, pattern: str, key: str, md5: str | None) -> tuple[Pictures, tuple[str, ...] | None]:
        files = find_files(pattern, key, md5)
        origin = origin_of(files[0] if len(files) == 1 else Path(pattern), key)
        tables, lists = readable(partial(self._read_columns, files), origin)
        table, names = self._joined(files, tables, lists, key)
        pictures = make_pictures(
            values_of(table[self.label_column], self.label_column, origin),
            len(table),
            blocks=lambda: encoded_rows(_cells(files, self.image_column)),
            origin=origin,
            identity=lambda: (*file_identity(files), self.image_column),
            advice=f'expected an encoded image, or {{"bytes", "path"}} with one, in each cell of '
            f"{self.image_column!r}: set data.source.init_args.image_column, or fetch the file again",
            groups={column: values_of(table[column], column, origin) for column in self.group_columns},
        )
        return pictures, names

    def _joined(self, files: list[Path], tables: list[Any], lists: list[Names], key: str) -> tuple[Any, Names]:
        """Concatenate the files of a split; labels of a file with another list of classes are renumbered."""
        import pyarrow

        names = next((given for given in lists if given is not None), None)
        for place, (file, given) in enumerate(zip(files, lists, strict=True)):
            if given not in (None, names):
                table, origin = tables[place], origin_of(file, key)
                labels = values_of(table[self.label_column], self.label_column, origin)
                labels = check_labels(labels, len(table), origin)
                column = table.schema.get_field_index(self.label_column)
                renumbered = pyarrow.array(
                    agreed(labels, given, names, origin)
                )  # a small type may lack the new numbers
                tables[place] = table.set_column(column, self.label_column, renumbered)
        try:
            return pyarrow.concat_tables(tables, promote_options="permissive"), names
        except pyarrow.ArrowException as error:
            raise MosaicError(
                f"{origin_of(files[0], key)} and {len(files) - 1} more: expected columns of one type in all files, got "
                f"others ({first_line(error)}): write them alike"
            ) from error

    def _read_columns(self, files: list[Path]) -> tuple[list[Any], list[Names]]:
        """Read all columns but the images from each file."""
        import pyarrow.parquet

        schemas = [pyarrow.parquet.read_schema(file) for file in files]
        wanted = list(dict.fromkeys([self.label_column, *self.group_columns]))
        for file, schema in zip(files, schemas, strict=True):
            if {self.image_column, *wanted} - set(schema.names):
                raise MosaicError(
                    f"{file}: expected columns {self.image_column!r} and {', '.join(map(repr, wanted))}, got "
                    f"{schema.names}: set data.source.init_args.image_column and label_column, or group_columns"
                )
        tables = [pyarrow.parquet.read_table(file, columns=wanted) for file in files]
        return tables, [_class_names(schema, self.label_column) for schema in schemas]


def _cells(files: list[Path], column: str) -> Iterator[list[Any]]:
    import pyarrow.parquet

    for file in files:
        with pyarrow.parquet.ParquetFile(file) as opened:
            for batch in opened.iter_batches(BLOCK_ROWS, columns=[column]):
                yield batch.column(0).to_pylist()


def _class_names(schema: Any, column: str) -> tuple[str, ...] | None:
    """Return the class names in the hub's metadata of the schema, if any."""
    metadata = (schema.metadata or {}).get(b"huggingface")
    if metadata is None:
        return None
    feature = ((json.loads(metadata).get("info") or {}).get("features") or {}).get(column) or {}
    return tuple(feature["names"]) if feature.get("names") else None
