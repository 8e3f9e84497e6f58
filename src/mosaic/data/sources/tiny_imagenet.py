"""Tiny-ImageNet, in the layout that Stanford published."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mosaic.data.sources.base import Found, PictureSource
from mosaic.data.sources.files import find_folder, origin_of, readable
from mosaic.data.sources.folder import file_pictures
from mosaic.errors import MosaicError


class TinyImageNetSource(PictureSource):
    """Tiny-ImageNet (Le and Yang 2015): 200 classes, 100,000 images of 64x64 to train on, 10,000 to test on.

    Reads ``wnids.txt``, ``words.txt``, ``train/WNID/images/*.JPEG``, and ``val/images/*.JPEG`` with
    ``val/val_annotations.txt``. The published test part has no labels, so ``val`` is the test split here, as in the
    literature. Classes are numbered in the order of ``wnids.txt`` and named by ``words.txt``. A few images are grey.

    Args:
        root: the folder ``tiny-imagenet-200``.
        settings: ``resize``, ``channels``, ``memory_limit_gib`` and ``cache_dir`` of :class:`PictureSource`.
    """

    def __init__(self, root: str = "data/tiny-imagenet-200", **settings: Any) -> None:
        super().__init__(**settings)
        self.root = root

    def find(self) -> Found:
        """Read the lists of classes and files."""
        root = find_folder(self.root, "root")
        origin = origin_of(root, "root")
        classes = [row[0] for row in _read_rows(root / "wnids.txt", origin)]
        number = {wnid: label for label, wnid in enumerate(classes)}
        train = [(file, label) for wnid, label in number.items() for file in _train_files(root, wnid, origin)]
        test = _test_files(root, number, origin)
        parts = [
            file_pictures([file for file, _ in part], np.asarray([label for _, label in part], dtype=np.int64), origin)
            for part in (train, test)
        ]
        words = {row[0]: row[-1] for row in _read_rows(root / "words.txt", origin)}
        return Found(parts[0], parts[1], tuple(words.get(wnid, wnid).split(",")[0] for wnid in classes))


def _read_rows(file: Path, origin: str) -> list[list[str]]:
    """Read a file of tab-separated columns; raise :class:`MosaicError` if it is missing or empty."""
    text = readable(partial(file.read_text, encoding="utf-8"), origin)
    rows = [line.split("\t") for line in text.splitlines() if line.strip()]
    if not rows:
        raise MosaicError(f"{origin}: expected rows in {file}, got none: fetch the archive again")
    return rows


def _train_files(root: Path, wnid: str, origin: str) -> list[Path]:
    files = sorted((root / "train" / wnid / "images").glob("*.JPEG"))
    if not files:
        raise MosaicError(
            f"{origin}: expected images {root / 'train' / wnid / 'images'}/*.JPEG for class {wnid} of wnids.txt, "
            "got none: unpack the archive again"
        )
    return files


def _test_files(root: Path, number: dict[str, int], origin: str) -> list[tuple[Path, int]]:
    annotations = root / "val" / "val_annotations.txt"
    found = []
    for row in _read_rows(annotations, origin):
        if len(row) < 2 or row[1] not in number:
            raise MosaicError(
                f"{origin}: expected file name and a class of wnids.txt in each row of {annotations}, got {row[:2]}: "
                "unpack the archive again"
            )
        found.append((root / "val" / "images" / row[0], number[row[1]]))
    return found
