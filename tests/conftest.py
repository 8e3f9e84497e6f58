"""Fixtures that more than one directory needs."""

import multiprocessing
import os
import subprocess
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from matplotlib.figure import Figure

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
    """A figure that is put together as ever, and comes out blank: drawing takes half of a tiny run."""

    def draw(self, renderer: object) -> None:
        """Draw nothing."""

    def tight_layout(self, **options: object) -> None:
        """Leave everything where it is, since to find a place for it is to draw it."""


@pytest.fixture(scope="session", autouse=True)
def _blank_figures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mosaic.figures.Figure", BlankFigure)
        yield


@pytest.fixture(params=["forked", pytest.param("started", marks=pytest.mark.slow)])
def processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let other processes of mosaic be forks of this one; in the slow suite also programs of their own."""
    if request.param == "forked":
        context = multiprocessing.get_context("fork")
        monkeypatch.setattr(subprocess, "Popen", ForkedMosaic)
        monkeypatch.setattr(multiprocessing, "get_context", lambda method=None: context)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw figures, for tests that look at them."""
    monkeypatch.setattr("mosaic.figures.Figure", Figure)
