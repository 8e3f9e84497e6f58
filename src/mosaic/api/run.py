"""A run on disk, as a Python object."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from jsonargparse import ArgumentParser

from mosaic.algorithms.base import Algorithm
from mosaic.api.plots import RunPlots
from mosaic.api.raising import raising
from mosaic.api.samples import Samples, draw_samples
from mosaic.errors import MosaicError, require_whole
from mosaic.nets.blueprint import ClassifierFactory
from mosaic.nets.classifier import Classifier
from mosaic.report.html import report
from mosaic.report.summary import percent
from mosaic.runs.directory import RunDirectory
from mosaic.runs.facts import read_facts
from mosaic.runs.rounds import read_rounds
from mosaic.runs.trained_model import TrainedModel, find_checkpoint, load_model

if TYPE_CHECKING:
    from pandas import DataFrame

T = TypeVar("T")
_WHOLE = ("round", "clients", "bytes_down", "bytes_up")
_SHOWN = ("test_accuracy", "own_test_accuracy")


class Run:
    """What a run has left in its folder, finished or not; everything is read when it is asked for.

    Args:
        path: of the folder.
        net: makes its network; needed where ``config.yaml`` cannot say how, as for a function.
        algorithm: of the run; needed to draw samples where ``config.yaml`` cannot say it.

    Attributes:
        path: of the folder.
        plot: draws figures.
    """

    def __init__(self, path: Path, net: ClassifierFactory | None = None, algorithm: Algorithm | None = None) -> None:
        self.path = path.absolute()  # a notebook may go elsewhere
        self.plot = RunPlots(self.path, self)
        self._net, self._algorithm = net, algorithm

    def __repr__(self) -> str:
        """Say which run this is and how it has ended."""
        file = RunDirectory(self.path).summary
        if not file.is_file():
            return f"Run({str(self.path)!r}, not finished)"
        try:
            said = self.summary
        except MosaicError:  # a list of runs is shown all the same
            return f"Run({str(self.path)!r}, summary.json cannot be read)"
        found = next((said[key] for key in _SHOWN if said.get(key) is not None), None)
        what = f"{said.get('algorithm')}, {said.get('rounds')} rounds, test accuracy {percent(found)}"
        return f"Run({str(self.path)!r}, {what})"

    @property
    def config(self) -> dict[str, Any]:
        """The run's configuration as plain values; for a run of objects, their description."""
        return self._read(RunDirectory(self.path).read_config)

    @property
    def summary(self) -> dict[str, Any]:
        """The final figures, such as ``test_accuracy``; accuracies are shares in ``[0, 1]``.

        Raises:
            MosaicError: the run has not finished.
        """
        facts = self._read(lambda: read_facts(RunDirectory(self.path).summary))
        if not facts:
            raise MosaicError(
                f"{self.path} has not finished (summary.json is missing): ckpt_path='auto' goes on with it"
            )
        return facts

    @property
    def metrics(self) -> "DataFrame":
        """One row for each finished round, of ``metrics.csv`` and ``validation.csv``; NaN is what was not measured."""
        import pandas

        table = pandas.DataFrame(self._read(lambda: read_rounds(self.path)), dtype=float)
        if "student_accepted" in table:
            table["student_accepted"] = table["student_accepted"].map({1.0: True, 0.0: False})
        whole = {name: "int64" for name in _WHOLE if name in table}
        return table.astype({**whole, **({"distils": "bool"} if "distils" in table else {})})

    @property
    def model(self) -> Classifier:
        """The global model in eval mode: pixels in ``[0, 1]``, ``(B, channels, H, W)``, to logits ``(B, C)``.

        It is read anew each time: keep it to use it often, or to change it.

        Raises:
            MosaicError: the run has not finished, its clients keep models of their own, or the network is not known.
        """
        return self._trained().net

    def client_model(self, client: int) -> Classifier:
        """Return a client's own model, where clients keep models of their own; see :attr:`model`."""
        with raising():
            require_whole("client_model", client=client)
            own = RunDirectory(self.path).client_checkpoint(client)
            if not own.is_file() and (kept := sorted(file.stem for file in own.parent.glob("*.ckpt"))):
                among = ", ".join(kept) if len(kept) <= 12 else f"{kept[0]} to {kept[-1]}, {len(kept)} in all"
                raise MosaicError(f"client: expected a client with a model of its own ({among}), got {client}")
            if not own.is_file() and RunDirectory(self.path).checkpoint.is_file():
                raise MosaicError(
                    f"{self.path}: it holds no model of client {client}, but one for all: clients have their own with "
                    "FedBN, LocalOnly and clients.models"
                )
        return self._load(lambda: own).net

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of logits and labels."""
        found: dict[str, Any] = self._read(lambda: read_facts(RunDirectory(self.path).partition))
        return tuple(found.get("classes") or json.loads(self._trained().facts["class_names"]))

    def sample(self, client: int, count: int = 16, seed: int = 0) -> Samples:
        """Draw images of a client's generator.

        Args:
            client: number of the client, from 0.
            count: how many images.
            seed: of labels and noise; the same seed gives the same images.

        Returns:
            Images on the CPU, sorted by label. Labels are drawn as the client holds them; of a generator that heeds no
            labels, they are what the global model takes the images for.

        Raises:
            MosaicError: the run has no generator of this client.
        """
        trained = self._trained()
        shape = tuple(json.loads(trained.facts["image_shape"]))
        with raising():
            algorithm = self._algorithm or _algorithm_of(self.config)
            return draw_samples(self.path, algorithm.program.generation, shape, trained.net, client, count, seed)

    def report(self, output: str | Path | None = None) -> Path:
        """Write one self-contained HTML page, as ``mosaic report`` does, and return its path."""
        with raising():
            if not isinstance(output, str | Path | None):
                raise MosaicError(f"output: expected the file to write, got {output!r}")
            return report(self.path, None if output is None else Path(output))

    def _trained(self) -> TrainedModel:
        return self._load(lambda: find_checkpoint(self.path))

    def _load(self, checkpoint: Callable[[], Path]) -> TrainedModel:
        return self._read(lambda: load_model(checkpoint(), self._net))

    def _read(self, read: Callable[[], T]) -> T:
        """Read something of the folder, which must be one of a run."""
        with raising():
            RunDirectory(self.path).require()
            return read()


def load(run_dir: str | Path, net: ClassifierFactory | None = None, algorithm: Algorithm | None = None) -> Run:
    """Return the run in a folder, finished or not.

    Args:
        run_dir: the run's folder.
        net: makes its network, where the run was made of objects and its network is no class that Python can import.
        algorithm: of the run, where it was made of objects; only :meth:`Run.sample` needs it.

    Raises:
        MosaicError: the folder holds no run.
    """
    if not isinstance(run_dir, str | Path):
        raise MosaicError(f"run_dir: expected the folder of a run, got {type(run_dir).__name__}")
    if algorithm is not None and not isinstance(algorithm, Algorithm):
        raise MosaicError(f"algorithm: expected that of the run, as mosaic.algorithms.Mosaic(), got {algorithm!r}")
    RunDirectory(Path(run_dir)).require()
    return Run(Path(run_dir), net, algorithm)


def _algorithm_of(config: Mapping[str, Any]) -> Algorithm:
    """Return the algorithm of a configuration; a class of another kind is refused.

    Raises:
        MosaicError: the configuration describes objects.
    """
    if config.get("from_objects"):
        raise MosaicError(
            "this run was made of objects, and its config.yaml only describes them: give its algorithm to mosaic.load, "
            "as in mosaic.load(run_dir, algorithm=Mosaic(...))"
        )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Algorithm, "algorithm")
    made: Algorithm = parser.instantiate(parser.parse_object({"algorithm": config["algorithm"]})).algorithm
    return made
