"""Images from folders, one folder per class."""

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mosaic.data.sources.base import Found, PictureSource, Split
from mosaic.data.sources.files import file_identity, find_folder, missing, origin_of, readable
from mosaic.data.sources.pictures import Block, Pictures, hold_out_test, make_pictures
from mosaic.errors import MosaicError

log = logging.getLogger(__name__)

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm"}
)
BLOCK_ROWS = 64


class FolderSource(PictureSource):
    """Images in folders: ``root/train/CLASS/...`` and ``root/test/CLASS/...``, or ``root/CLASS/...`` with a test share.

    The training folders are the classes, sorted by name. They may contain further folders and links to folders. The log
    counts files that are not images by their suffix, and broken links.

    Args:
        root: folder of the data set.
        train: folder in ``root`` with one folder per training class.
        test: folder in ``root`` with one folder per test class; ``train`` must have all of them.
        test_share: for a data set without a test folder: share of each class in ``root`` to test on.
        seed: seed of that choice.
        settings: ``resize``, ``channels``, ``memory_limit_gib`` and ``cache_dir`` of :class:`PictureSource`.
    """

    def __init__(
        self,
        root: str,
        train: str = "train",
        test: str = "test",
        test_share: float | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.root, self.train, self.test = root, train, test
        self.test_share, self.seed = test_share, seed

    def find(self) -> Found:
        """List the files."""
        root = find_folder(self.root, "root")
        origin = origin_of(root, "root")
        if self.test_share is None:
            folders = root / self.train, root / self.test
            for folder, key in zip(folders, ("train", "test"), strict=True):
                if not folder.is_dir():
                    raise MosaicError(
                        f"{missing('folder', folder, key)}; if {root} itself holds one folder per class, "
                        "set --data.source.init_args.test_share"
                    )
            names = class_folders(folders[0], origin)
            train, test = (list_images(folder, names, origin) for folder in folders)
        else:
            names = class_folders(root, origin)
            if {self.train, self.test} <= set(names):
                raise MosaicError(
                    f"{origin}: expected one folder per class in {root}, got the folders {self.train} and {self.test}: "
                    "leave data.source.init_args.test_share out, or name the folder that holds the classes"
                )
            files, labels = list_images(root, names, origin)
            chosen = hold_out_test(labels, self.test_share, self.seed)
            train, test = (([files[i] for i in part], labels[part]) for part in chosen)
        return Found(file_pictures(*train, origin), file_pictures(*test, origin), names)

    def find_split(self, split: Split) -> tuple[Pictures, tuple[str, ...] | None]:
        """List the files of one split; the folder of the other need not exist."""
        if self.test_share is not None:
            return super().find_split(split)
        root = find_folder(self.root, "root")
        origin = origin_of(root, "root")
        folder = root / (self.train if split == "train" else self.test)
        if not folder.is_dir():
            raise missing("folder", folder, split)
        names = class_folders(folder, origin)
        return file_pictures(*list_images(folder, names, origin), origin), names


def class_folders(folder: Path, origin: str) -> tuple[str, ...]:
    """Return the sorted names of the folders in a folder; raise :class:`MosaicError` if there are none."""
    names = tuple(sorted(entry.name for entry in _entries(folder, origin) if entry.is_dir()))
    if not names:
        raise MosaicError(f"{origin}: expected one folder per class in {folder}, got none: put each class in its own")
    return names


def list_images(folder: Path, names: Sequence[str], origin: str) -> tuple[list[Path], np.ndarray]:
    """Return all images of the classes in a fixed order, and their labels as positions in ``names``.

    Raises:
        MosaicError: the folder holds a class that is not among the names, or there are no images.
    """
    unknown = set(class_folders(folder, origin)) - set(names)
    if unknown:
        raise MosaicError(
            f"{origin}: expected in {folder} only classes that are in the training folder, "
            f"got {', '.join(sorted(unknown)[:5])}: rename or remove them"
        )
    files: list[Path] = []
    labels: list[int] = []
    others = [entry for entry in _entries(folder, origin) if not entry.is_dir()]
    for label, name in enumerate(names):
        entries = sorted(_below(folder / name, origin) if (folder / name).is_dir() else (), key=Path.as_posix)
        images = [entry for entry in entries if entry.suffix.lower() in SUFFIXES and entry.is_file()]
        others += [entry for entry in entries if entry.suffix.lower() not in SUFFIXES or not entry.is_file()]
        files += images
        labels += [label] * len(images)
    lost = [entry for entry in others if not entry.exists()]
    others = [entry for entry in others if entry.exists()]
    if lost:
        log.warning("%s: %d links lead nowhere and are left out, for example %s: fetch the files they point to, for "
                    "example with `git annex get` or `dvc pull`", origin, len(lost), lost[0])  # fmt: skip
    if others:
        log.warning("%s: %d files lie in no class or are not images by suffix and are left out, for example %s",
                    origin, len(others), others[0])  # fmt: skip
    if not files:
        raise MosaicError(
            f"{origin}: expected images below {folder}, got none: store them as {folder}/CLASS/*.png or the like"
        )
    return files, np.asarray(labels)


def file_pictures(files: list[Path], labels: np.ndarray, origin: str) -> Pictures:
    """Make pictures from image files."""
    return make_pictures(
        labels,
        len(files),
        blocks=partial(_blocks, files),
        origin=origin,
        identity=lambda: file_identity(files),
        advice="fetch the file again, or remove it",
    )


def _blocks(files: list[Path]) -> Iterator[Block]:
    for start in range(0, len(files), BLOCK_ROWS):
        yield [(str(file), file) for file in files[start : start + BLOCK_ROWS]]


def _below(folder: Path, origin: str, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yield all files and broken links below a folder, and follow links to folders.

    Raises:
        MosaicError: a folder cannot be read, or a link leads to a folder that contains it.
    """
    here = folder.resolve()
    if here in above:
        raise MosaicError(f"{origin}: expected links that end somewhere, got {folder}, which leads back: remove it")
    for entry in _entries(folder, origin):
        yield from _below(entry, origin, (*above, here)) if entry.is_dir() else (entry,)


def _entries(folder: Path, origin: str) -> list[Path]:
    """List a folder without its hidden entries."""
    return [entry for entry in readable(lambda: list(folder.iterdir()), origin) if not entry.name.startswith(".")]
