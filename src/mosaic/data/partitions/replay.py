"""Partitions that are given or read from ``partition.json``, and the writing of that file."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mosaic.data.holdings import Holding, check_holdings
from mosaic.data.partitions.base import Groups, Partition, whole_numbers
from mosaic.data.sources.files import expand
from mosaic.disk import write_whole
from mosaic.errors import MosaicError

log = logging.getLogger(__name__)


class GivenPartition(Partition):
    """Deal out given holdings; the seed and the validation share are ignored."""

    num_clients: int

    def __init__(self, holdings: Sequence[Holding]) -> None:
        super().__init__(len(holdings))
        self._holdings = list(holdings)

    def split(self, labels: np.ndarray, seed: int, groups: Groups) -> list[np.ndarray]:
        """Return the training and validation images of each client together."""
        return [np.sort(np.concatenate(holding)) for holding in self.deal(labels, seed, groups, 0.0)]

    def deal(self, labels: np.ndarray, seed: int, groups: Groups, validation_share: float) -> list[Holding]:
        """Return the holdings."""
        return self._holdings


class ReplayPartition(GivenPartition):
    """Replay a ``partition.json`` that a run or ``mosaic partition`` has written.

    The file lists the images that each client trains and validates on; ``data.seed`` and ``data.validation_share`` are
    ignored.

    Args:
        path: path of the file; may start with ``~`` and contain environment variables.
    """

    def __init__(self, path: str) -> None:
        self.path = expand(path)
        self._saved = _read(self.path, self.origin)
        super().__init__(
            [
                Holding(*(_indices(entry, part, f"{self.origin}: clients[{i}]") for part in ("train", "validation")))
                for i, entry in enumerate(self._saved["clients"])
            ]
        )

    @property
    def origin(self) -> str:
        """Key and file, for errors."""
        return f"data.partition.path {self.path}"

    def deal(self, labels: np.ndarray, seed: int, groups: Groups, validation_share: float) -> list[Holding]:
        """Return the holdings in the file.

        Raises:
            MosaicError: the file was written for another data set.
        """
        fingerprint = fingerprint_of(labels)
        if (self._saved.get("labels") or fingerprint) != fingerprint:
            count = f"{self._saved['images']} " if self._saved.get("images") else ""
            raise MosaicError(
                f"{self.origin}: expected the {count}training images that it was written for, got "
                f"{len(labels)} whose labels differ: use the data.source of that run, or make a new partition"
            )
        check_holdings(self._holdings, len(labels), self.origin)
        log.info("partition: %d clients from %s; data.seed and data.validation_share are ignored",
                 self.num_clients, self.path)  # fmt: skip
        return self._holdings


def write_holdings(
    path: Path, holdings: Sequence[Holding], labels: np.ndarray, seed: int, facts: Mapping[str, Any]
) -> None:
    """Write all holdings and a fingerprint of all training labels as JSON, for :class:`ReplayPartition` and people.

    Args:
        path: of the file.
        holdings: of all clients.
        labels: of all training images.
        seed: of the partition.
        facts: what else readers should know, as plain values.
    """
    known = {"seed": seed, "images": len(labels), "labels": fingerprint_of(labels)}
    whole = {**known, **facts, "clients": plain_holdings(holdings)}
    write_whole(path, f"{json.dumps(whole)}\n".encode())


def plain_holdings(holdings: Sequence[Holding]) -> list[dict[str, list[int]]]:
    """Return all clients' images as they are written."""
    return [{"train": train.tolist(), "validation": validation.tolist()} for train, validation in holdings]


def fingerprint_of(labels: np.ndarray) -> str:
    """Return a checksum that tells a data set from others of the same size."""
    return "sha256:" + hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()[:32]


def _read(path: Path, origin: str) -> dict[str, Any]:
    try:
        saved = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise MosaicError(
            f"{origin}: expected a partition.json of a run or of mosaic partition, cannot read it ({error}): "
            "check the path, or make a new file with mosaic partition"
        ) from error
    if not isinstance(saved, dict) or not isinstance(saved.get("clients"), list) or not saved["clients"]:
        raise MosaicError(
            f"{origin}: expected a list 'clients', got none: check the path, or make a new file with mosaic partition"
        )
    return saved


def _indices(entry: Any, part: str, origin: str) -> np.ndarray:
    try:
        indices = whole_numbers(entry[part])
    except (LookupError, TypeError):
        indices = None
    if indices is None:
        raise MosaicError(
            f"{origin}: expected '{part}' to be a list of image indices, got something else: "
            "make a new file with mosaic partition"
        )
    return indices
