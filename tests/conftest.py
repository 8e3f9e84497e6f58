"""Fixtures that more than one directory needs.

Nothing heavy is imported here at once: the process that only deals tests out to two others need not wait for it.
"""

import logging
import multiprocessing
import os
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import torch

    from mosaic.nets import Blueprint
    from mosaic.training.phases import PhaseRunner
    from tests.small_runs import SharedRuns

# LightningCLI calls names that jsonargparse has renamed: https://github.com/Lightning-AI/pytorch-lightning/issues/21900
os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")


@pytest.fixture(scope="session", autouse=True)
def _session() -> Iterator[None]:
    """Compute in one thread, leave figures blank, and leave what runs freeze out of the garbage collector's way.

    The collector would go through all that pytest holds after every run.
    """
    import torch

    from tests.blank import FIGURES, blank

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let what they start in the background ignore it
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gc.unfreeze", lambda: None)
        for place in FIGURES:
            patch.setattr(place, blank)
        yield


@pytest.fixture(autouse=True)
def _fresh_log() -> None:
    """Let the package's log go to pytest again, wherever a command of an earlier test has sent it."""
    log = logging.getLogger("mosaic")
    log.handlers.clear()
    log.setLevel(logging.NOTSET)
    log.propagate = True


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw figures, for tests that look at them."""
    from tests.blank import FIGURES

    for place, draw in FIGURES.items():
        monkeypatch.setattr(place, draw)


@pytest.fixture
def random() -> "torch.Generator":
    import torch

    return torch.Generator().manual_seed(0)


@pytest.fixture
def blueprint() -> "Blueprint":
    """Three classes of 8x8 grey images, 2,800 parameters."""
    from mosaic.nets import Blueprint, SmallCNN

    return Blueprint(partial(SmallCNN, width=4), (1, 8, 8), 3, (0.5,), (0.25,))


@pytest.fixture(scope="session")
def phases() -> "PhaseRunner":
    from mosaic.training.phases import PhaseRunner

    return PhaseRunner({"accelerator": "cpu", "devices": 1})


@pytest.fixture(scope="session")
def shared_run(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[SharedRuns]":
    """Makes the finished runs that tests read and leave as they are: ``shared_run("FedAvg", *flags)``."""
    from tests.small_runs import SharedRuns

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared-runs"
    folder.mkdir(exist_ok=True)
    runs = SharedRuns(folder)
    yield runs
    runs.assert_untouched()


@pytest.fixture(params=["forked", pytest.param("started", marks=pytest.mark.slow)])
def processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let other processes of mosaic be forks of this one; in the slow suite also programs of their own."""
    from tests.forks import ForkedMosaic

    if request.param == "forked":
        context = multiprocessing.get_context("fork")
        monkeypatch.setattr(subprocess, "Popen", ForkedMosaic)
        monkeypatch.setattr(multiprocessing, "get_context", lambda method=None: context)
