"""Write what a run measures: one TensorBoard stream, and tables of rounds."""

import csv
from collections.abc import Mapping
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import make_grid

from mosaic.runs import figures


class Tracker:
    """Writes the tables and event files of a run.

    Args:
        tensorboard: folder of the event files.
        round: the last finished round; what is written belongs to the next one.
    """

    def __init__(self, tensorboard: Path, round: int) -> None:
        self._writer = SummaryWriter(str(tensorboard))
        self._scalars: dict[str, tuple[int, float]] = {}
        self.round = round + 1

    def curves(self, prefix: str, curves: Mapping[str, Tensor]) -> None:
        """Write curves over their own steps, at most about 200 points of each."""
        for name, values in curves.items():
            for step in range(0, len(values), max(1, len(values) // 200)):
                self._writer.add_scalar(f"{prefix}/{name}", float(values[step]), step)

    def images(self, name: str, images: Tensor) -> None:
        """Write a grid of pixels ``(B, channels, H, W)``, enlarged so that small images can be seen."""
        if len(images) == 0:
            return
        larger = interpolate(images.float().cpu(), scale_factor=max(1, 64 // images.shape[-1]))
        self._writer.add_image(name, make_grid(larger, nrow=8, padding=2, pad_value=1.0), self.round)

    def heat_map(self, name: str, values: Tensor, rows: str, columns: str) -> None:
        """Write a picture of a matrix."""
        title = name.split("/")[-1].replace("_", " ").capitalize()
        self.figure(name, figures.heat_map(values.float().cpu().numpy(), rows, columns, title))

    def figure(self, name: str, figure: Figure) -> None:
        """Write a figure."""
        self._writer.add_figure(name, figure, self.round)

    def scalar(self, name: str, value: float, round: int | None = None) -> None:
        """Write one number, of this round unless another is given."""
        self._writer.add_scalar(name, value, self.round if round is None else round)
        self._scalars[name] = (self.round, value)

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
        """Bring everything to disk."""
        self._writer.flush()

    def close(self) -> None:
        """Bring everything to disk and stop."""
        self._writer.close()


class SilentTracker:
    """Ignores everything: the tracker of every process but the first."""

    round = 0

    def _ignore(self, *_: object) -> None: ...

    curves = images = heat_map = scalar = flush = _ignore


def peak_memory_bytes() -> int:
    """Return the largest memory of this process so far: on the GPU where there is one, resident otherwise."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
