"""Write what a run measures: one TensorBoard stream, and tables of rounds."""

import csv
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from mosaic.runs import figures
from mosaic.runs.loggers import RunLoggers
from mosaic.runs.sample_figure import class_samples

Nearest = Callable[[Tensor, int], tuple[Tensor, float | None]]
"""How far images are from the nearest of a client's, and how far the client's held-out images are."""


class Tracker:
    """Writes the tables and event files of a run, and tells its loggers.

    Args:
        tensorboard: folder of the event files.
        round: the last finished round; what is written belongs to the next one.
        loggers: of the user.
        class_names: names of the classes.
        nearest: compares generated images with real ones, where the clients are simulated.
    """

    def __init__(
        self,
        tensorboard: Path,
        round: int,
        loggers: RunLoggers,
        class_names: Sequence[str] = (),
        nearest: Nearest | None = None,
    ) -> None:
        self._writer = SummaryWriter(str(tensorboard))
        self._loggers, self._class_names, self._nearest = loggers, class_names, nearest
        self._scalars: dict[str, tuple[int, float]] = {}
        self.round = round + 1
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats()  # or a notebook's earlier runs would count as this one's

    def curves(self, prefix: str, curves: Mapping[str, Tensor]) -> None:
        """Write curves over their own steps, at most about 200 points of each."""
        for name, values in curves.items():
            for step in range(0, len(values), max(1, len(values) // 200)):
                self._writer.add_scalar(f"{prefix}/{name}", float(values[step]), step)

    def images(self, name: str, images: Tensor, labels: Tensor | None = None, client: int | None = None) -> None:
        """Write a picture of generated images, by class, with distances to real ones if they are known.

        Args:
            name: of the picture.
            images: pixels in ``[0, 1]``, shape ``(B, channels, H, W)``.
            labels: shape ``(B,)``, if images were made of labels.
            client: owner of the generator, if it has one.
        """
        if len(images) == 0:
            return
        distances, title = None, ""
        if self._nearest is not None and client is not None:
            distances, usual = self._nearest(images, client)
            title = f"under each: distance to the nearest image of client {client}"
            title += "" if usual is None else f" (its held-out images: {usual:.2f})"
        self.figure(
            name,
            class_samples(
                images.float().cpu().numpy(),
                None if labels is None else labels.cpu().numpy(),
                self._class_names,
                None if distances is None else distances.numpy(),
                title,
            ),
        )

    def heat_map(self, name: str, values: Tensor, rows: str, columns: str) -> None:
        """Write a picture of a matrix."""
        title = name.split("/")[-1].replace("_", " ").capitalize()
        names = self._class_names if columns == "class" else None
        self.figure(name, figures.heat_map(values.float().cpu().numpy(), rows, columns, title, names or None))

    def figure(self, name: str, figure: Figure) -> None:
        """Write a figure."""
        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3]
        self._writer.add_image(name, pixels, self.round, dataformats="HWC")
        self._loggers.picture(name, pixels, self.round)

    def scalar(self, name: str, value: float, round: int | None = None) -> None:
        """Write one number, of this round unless another is given."""
        of = self.round if round is None else round
        self._writer.add_scalar(name, value, of)
        self._scalars[name] = (self.round, value)
        self._loggers.scalar(name, value, of)

    def written(self, name: str) -> float | None:
        """Return a number that has been written in this round, if it has."""
        round, value = self._scalars.get(name, (None, None))
        return value if round == self.round else None

    @staticmethod
    def row(table: Path, values: Mapping[str, float | int | str | None]) -> None:
        """Append one row to a table; None leaves a cell empty. A table that another version began keeps its columns."""
        with table.open("a+", newline="") as file:
            file.seek(0)
            columns = next(csv.reader(file), [])
            writer = csv.DictWriter(file, columns or list(values), extrasaction="ignore")
            if not columns:
                writer.writeheader()
            writer.writerow(values)

    def hyper_parameters(self, parameters: Mapping[str, int | str], metrics: Mapping[str, float]) -> None:
        """Write the run's settings beside its final figures."""
        self._writer.add_hparams(dict(parameters), dict(metrics), run_name=".")

    def flush(self) -> None:
        """Bring everything to disk; the clients judge a round's model in the next one, so loggers wait for that."""
        self._writer.flush()
        self._loggers.tell(before=self.round)

    def close(self, finished: bool = True) -> None:
        """Bring everything to disk and stop; say whether the run has finished."""
        self._writer.close()
        self._loggers.close("success" if finished else "failed")


class SilentTracker:
    """Ignores everything: the tracker of every process but the first."""

    round = 0

    def _ignore(self, *_: object) -> None: ...

    curves = images = heat_map = scalar = flush = _ignore


def peak_memory_bytes() -> int:
    """Return the largest memory so far: of this run on the GPU where there is one, else of this process, resident."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024
