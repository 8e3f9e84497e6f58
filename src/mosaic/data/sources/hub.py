"""Images from the Hugging Face hub or from local files, loaded by the ``datasets`` library."""

from typing import Any

from mosaic.data.sources.base import Found, PictureSource
from mosaic.data.sources.columns import values_of
from mosaic.data.sources.files import expand
from mosaic.data.sources.pictures import Pictures, encoded_rows, hold_out_test, make_pictures
from mosaic.errors import MosaicError, first_line

BLOCK_ROWS = 256


class HubSource(PictureSource):
    """A data set that ``datasets.load_dataset`` loads: from the hub, a folder, or local files in a given format.

    Args:
        path: name on the hub, a local folder, or a format such as ``parquet`` together with ``data_files``.
        name: configuration of the data set, if it has several.
        data_files: local files per split, for example ``{train: a.parquet, test: b.parquet}``; needs no network.
        train_split: name of the split to train on.
        test_split: name of the split to test on.
        image_column: name of the image column.
        label_column: name of the label column.
        group_columns: names of other columns to keep as groups, such as ``writer_id``.
        test_share: for a data set without a test split: share of each class of ``train_split`` to test on.
        seed: seed of that choice.
        revision: commit or tag on the hub; set it, so that the data stay the same.
        settings: ``resize``, ``channels``, ``memory_limit_gib`` and ``cache_dir`` of :class:`PictureSource`.
    """

    def __init__(
        self,
        path: str,
        name: str | None = None,
        data_files: dict[str, str] | None = None,
        train_split: str = "train",
        test_split: str = "test",
        image_column: str = "image",
        label_column: str = "label",
        group_columns: list[str] | None = None,
        test_share: float | None = None,
        seed: int = 0,
        revision: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.path, self.name, self.data_files, self.revision = path, name, data_files, revision
        self.train_split, self.test_split = train_split, test_split
        self.image_column, self.label_column = image_column, label_column
        self.group_columns = group_columns or []
        self.test_share, self.seed = test_share, seed

    def find(self) -> Found:
        """Open both splits and read their labels."""
        table = self._open(self.train_split, "train_split")
        if self.test_share is None:
            test = self._open(self.test_split, "test_split")
        else:
            labels = self._pictures(table, self.train_split).labels
            table, test = (table.select(part) for part in hold_out_test(labels, self.test_share, self.seed))
        split = self.test_split if self.test_share is None else self.train_split
        parts = self._pictures(table, self.train_split), self._pictures(test, split)
        return Found(*parts, *(self._class_names(part) for part in (table, test)))

    def _class_names(self, table: Any) -> tuple[str, ...] | None:
        names = getattr(table.features[self.label_column], "names", None)
        return None if names is None else tuple(names)

    def _open(self, split: str, key: str) -> Any:
        """Load a split without decoding its images."""
        import datasets

        files = self.data_files and {part: _address(file) for part, file in self.data_files.items()}
        path = _address(self.path)
        try:
            table = datasets.load_dataset(path, self.name, data_files=files, split=split, revision=self.revision)
        except Exception as error:  # datasets raises OSError, ValueError, ConnectionError and its own
            raise MosaicError(
                f"{self.path} (data.source.init_args.path): split {split!r} cannot be loaded ({first_line(error)}): "
                f"check path, name, data_files and {key}, or the network; mosaic.data.ParquetSource reads local files"
            ) from error
        missing = {self.image_column, self.label_column, *self.group_columns} - set(table.column_names)
        if missing:
            raise MosaicError(
                f"{self.path} (data.source.init_args.path): expected columns {sorted(missing)}, got "
                f"{table.column_names}: set data.source.init_args.image_column and label_column"
            )
        if isinstance(table.features[self.image_column], datasets.Image):
            table = table.cast_column(self.image_column, datasets.Image(decode=False))
        return table

    def _pictures(self, table: Any, split: str) -> Pictures:
        columns = list(dict.fromkeys([self.label_column, *self.group_columns]))
        rest = table.select_columns(columns).with_format("arrow")[:]
        return make_pictures(
            values_of(rest[self.label_column], self.label_column, str(self.path)),
            len(table),
            blocks=lambda: encoded_rows(
                batch[self.image_column].to_pylist()
                for batch in table.select_columns([self.image_column]).with_format("arrow").iter(BLOCK_ROWS)
            ),
            origin=f"{self.path} (data.source.init_args.path), split {split!r}",
            identity=lambda: (table._fingerprint, self.image_column),
            advice=f"expected encoded images in column {self.image_column!r}: "
            "set data.source.init_args.image_column, or fetch the data set again",
            groups={column: values_of(rest[column], column, str(self.path)) for column in self.group_columns},
        )


def _address(path: str) -> str:
    """Expand a path; leave an address as it is, as ``hf://datasets/OWNER/NAME/train.parquet``."""
    return path if "://" in path else str(expand(path))
