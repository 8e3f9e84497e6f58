"""Draw figures of runs and comparisons, which notebooks show."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mosaic.comparison.outcome import Outcome
from mosaic.comparison.writing import OVER, Over, accuracy_bands
from mosaic.errors import MosaicError
from mosaic.runs.directory import RunDirectory
from mosaic.runs.facts import read_facts
from mosaic.runs.figures import Band, Picture, bands, confusion_matrix, partition_heat_map
from mosaic.runs.rounds import ACCURACIES
from mosaic.runs.sample_figure import COLUMNS, class_samples

if TYPE_CHECKING:
    from mosaic.api.run import Run


class RunPlots:
    """Draws figures of a run: matplotlib figures, which ``savefig`` writes."""

    def __init__(self, path: Path, run: "Run") -> None:
        self._path, self._run = path, run

    def partition(self) -> Picture:
        """Draw how many images of which class each client trains on."""
        (directory := RunDirectory(self._path)).require()
        file = directory.partition
        known = read_facts(file)
        if not known:
            raise MosaicError(f"{file} is missing: restore it from a copy, or go on with the run, which writes it anew")
        return partition_heat_map(np.array(known["class_counts"]), known["classes"])

    def accuracy(self) -> Picture:
        """Draw accuracies over rounds: on the test split, and on the clients' validation images."""
        table = self._run.metrics
        curves = {}
        for column, name in ACCURACIES.items():
            if column in table and table[column].notna().any():
                measured = table[table[column].notna()]
                heights = 100 * measured[column].to_numpy(float)
                curves[name] = Band(measured["round"].to_numpy(float), heights, np.zeros_like(heights))
        if not curves:
            raise MosaicError(f"{self._path} has no finished round with an accuracy: nothing to draw yet")
        return bands(curves, x_label="communication round", y_label="accuracy, %")

    def confusion(self) -> Picture:
        """Draw what the final global model takes the images of each class for, on the test split."""
        (directory := RunDirectory(self._path)).require()
        file = directory.confusion
        if not file.is_file():
            raise MosaicError(f"{file} is missing: the run has not finished, or has no global model or no test split")
        try:
            with file.open(newline="") as content:
                (_, *names), *rows = csv.reader(content)
            counts = np.array([row[1:] for row in rows], dtype=np.int64).reshape(len(names), len(names))
        except (ValueError, csv.Error) as error:
            raise MosaicError(f"{file} is damaged ({error}): restore it from a copy") from error
        return confusion_matrix(counts, names)

    def samples(self, client: int, count: int = 64) -> Picture:
        """Draw images of a client's generator, at most eight of each class; see :meth:`mosaic.Run.sample`."""
        images, labels = (part.numpy() for part in self._run.sample(client, count))
        shown = np.concatenate([np.flatnonzero(labels == label)[:COLUMNS] for label in np.unique(labels)])
        return class_samples(images[shown], labels[shown], self._run.class_names)


class ComparisonPlots:
    """Draws figures of a comparison: matplotlib figures, which ``savefig`` writes."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self._outcomes = outcomes

    def rounds(self) -> Picture:
        """Draw the test accuracy of every algorithm over rounds: mean and standard deviation over seeds."""
        return self._draw("rounds")

    def traffic(self) -> Picture:
        """Draw the same over what was sent and received."""
        return self._draw("traffic")

    def _draw(self, over: Over) -> Picture:
        if not (curves := accuracy_bands(self._outcomes, over)):
            raise MosaicError("no run of this comparison has a test accuracy for every round: there is nothing to draw")
        return bands(curves, x_label=OVER[over], y_label="test accuracy, %")
