"""Fixtures that more than one directory needs."""

import multiprocessing
import os
import subprocess
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from matplotlib.figure import Figure

from mosaic.figures import bands, confusion_matrix, heat_map, partition_heat_map
from mosaic.nets import Blueprint, SmallCNN
from mosaic.phases import PhaseRunner
from tests.forks import ForkedMosaic
from tests.runs import SharedRuns

# LightningCLI calls names that jsonargparse has renamed: https://github.com/Lightning-AI/pytorch-lightning/issues/21900
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
torch.set_num_threads(1)


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def blueprint() -> Blueprint:
    """Three classes of 8x8 grey images, 2,800 parameters."""
    return Blueprint(partial(SmallCNN, width=4), (1, 8, 8), 3, (0.5,), (0.25,))


@pytest.fixture(scope="session")
def phases() -> PhaseRunner:
    return PhaseRunner({"accelerator": "cpu", "devices": 1})


@pytest.fixture(scope="session")
def shared_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedRuns]:
    """Makes the finished runs that tests read and leave as they are: ``shared_run("FedAvg", *flags)``."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared-runs"
    folder.mkdir(exist_ok=True)
    runs = SharedRuns(folder)
    yield runs
    runs.assert_untouched()


class BlankFigure(Figure):
    """A figure that comes out blank: drawing takes half of a tiny run."""

    def draw(self, renderer: object) -> None:
        """Draw nothing."""


def blank(*_: object, **__: object) -> Figure:
    """Make a blank figure in place of any other."""
    return BlankFigure(figsize=(1, 1), dpi=10)


FIGURES = {
    **{
        f"mosaic.{place}.partition_heat_map": partition_heat_map
        for place in ("federation.federation", "federation.record", "partition_command")
    },
    "mosaic.federation.record.confusion_matrix": confusion_matrix,
    "mosaic.federation.tracking.figures.heat_map": heat_map,
    "mosaic.comparison.writing.bands": bands,
}
"""Where figures are asked for, and what makes them."""


@pytest.fixture(scope="session", autouse=True)
def _blank_figures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for place in FIGURES:
            patch.setattr(place, blank)
        yield


@pytest.fixture(scope="session", autouse=True)
def _frozen() -> Iterator[None]:
    """Leave what runs freeze out of the garbage collector's way: it goes through all that pytest holds each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gc.unfreeze", lambda: None)
        yield


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw figures, for tests that look at them."""
    for place, draw in FIGURES.items():
        monkeypatch.setattr(place, draw)


@pytest.fixture(params=["forked", pytest.param("started", marks=pytest.mark.slow)])
def processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let other processes of mosaic be forks of this one; in the slow suite also programs of their own."""
    if request.param == "forked":
        context = multiprocessing.get_context("fork")
        monkeypatch.setattr(subprocess, "Popen", ForkedMosaic)
        monkeypatch.setattr(multiprocessing, "get_context", lambda method=None: context)
