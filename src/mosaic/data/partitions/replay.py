"""Partitions kept as a file, and dealt again exactly."""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mosaic.data.holdings import Holding, check_holdings
from mosaic.data.partitions.base import Groups, Partition
from mosaic.disk import write_whole
from mosaic.errors import MosaicError

log = logging.getLogger(__name__)


class ReplayPartition(Partition):
    """A ``partition.json`` that a run or ``mosaic partition`` has written, replayed exactly.

    The file says which images every client trains on and which it validates on; ``data.seed`` and
    ``data.validation_share`` play no part.

    Args:
        path: of the file.
    """

    num_clients: int

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._saved = _read(self.path, self.origin)
        self._holdings = _parse(self._saved, self.origin)
        super().__init__(len(self._holdings))

    @property
    def origin(self) -> str:
        """Key and file, for errors."""
        return f"data.partition.path {self.path}"

    def split(self, labels: np.ndarray, seed: int, groups: Groups) -> list[np.ndarray]:
        """Return what the file says, training and validation images together."""
        return [np.sort(np.concatenate(holding)) for holding in self.deal(labels, seed, groups, 0.0)]

    def deal(self, labels: np.ndarray, seed: int, groups: Groups, validation_share: float) -> list[Holding]:
        """Return what the file says.

        Raises:
            MosaicError: the file was written for other images.
        """
        fingerprint = fingerprint_of(labels)
        if self._saved.get("labels", fingerprint) != fingerprint:
            raise MosaicError(
                f"{self.origin}: expected the {self._saved.get('images')} training images that it was written for, got "
                f"{len(labels)} whose labels differ: use the data.source of the run that wrote it, or make a new "
                "partition with mosaic partition"
            )
        check_holdings(self._holdings, len(labels), self.origin)
        log.info("partition: %d clients as in %s; data.seed and data.validation_share play no part",
                 self.num_clients, self.path)  # fmt: skip
        return self._holdings


def write_holdings(path: Path, holdings: Sequence[Holding], labels: np.ndarray, seed: int) -> None:
    """Write who holds what, for :class:`ReplayPartition` and for people.

    Args:
        path: of the JSON file: ``clients``, with indices to ``train`` on and for ``validation``, and a fingerprint of
            the data set's ``labels``.
        holdings: of all clients.
        labels: of all training images, shape ``(n,)``.
        seed: that the partition was drawn with.
    """
    clients = [{"train": train.tolist(), "validation": validation.tolist()} for train, validation in holdings]
    whole = {"seed": seed, "images": len(labels), "labels": fingerprint_of(labels), "clients": clients}
    write_whole(path, f"{json.dumps(whole)}\n".encode())


def fingerprint_of(labels: np.ndarray) -> str:
    """Return a checksum by which a data set is told from another of the same size."""
    return "sha256:" + hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()[:32]


def _read(path: Path, origin: str) -> dict[str, Any]:
    try:
        saved = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise MosaicError(
            f"{origin}: expected a partition.json of a run or of mosaic partition, cannot read it ({error}): "
            "check the path, or make a new one with mosaic partition"
        ) from error
    if not isinstance(saved, dict) or not isinstance(saved.get("clients"), list) or not saved["clients"]:
        raise MosaicError(
            f"{origin}: expected a list 'clients' with one entry per client, got none: "
            "check the path, or make a new file with mosaic partition"
        )
    return saved


def _parse(saved: dict[str, Any], origin: str) -> list[Holding]:
    return [
        Holding(*(_indices(entry, part, f"{origin}: clients[{client}]") for part in ("train", "validation")))
        for client, entry in enumerate(saved["clients"])
    ]


def _indices(entry: Any, part: str, origin: str) -> np.ndarray:
    try:
        indices = np.asarray(entry[part])
    except (LookupError, TypeError, ValueError):
        indices = np.empty((0, 0))
    if indices.shape == (0,):
        return np.empty(0, dtype=np.int64)
    if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer):
        raise MosaicError(
            f"{origin}: expected '{part}' to be a list of image indices, got another thing: "
            "correct the file, or make a new one with mosaic partition"
        )
    return np.sort(indices.astype(np.int64))
