"""What a tracker writes, as TensorBoard reads it."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mosaic.cli.main import main
from mosaic.runs.loggers import RunLoggers
from mosaic.runs.tracking import Tracker, peak_memory_bytes
from tests.small_runs import TWO_ROUNDS, tiny_fit


def test_curves_of_several_distilling_rounds_lie_apart(tmp_path: Path) -> None:
    run = tmp_path / "run"
    main(tiny_fit(run, *TWO_ROUNDS, "--federation.schedule.distill_rounds=[1,2]"))
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    steps = {
        tag: [event.step for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if tag.startswith(("distillation/", "gate/"))
    }
    assert {"distillation/loss", "distillation/round_2/loss", "gate/loss", "gate/round_2/loss"} <= steps.keys()
    assert all(len(found) == len(set(found)) for found in steps.values())


def test_a_gpus_peak_is_that_of_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peak = {"bytes": 7}
    pretended = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "max_memory_allocated": lambda: peak["bytes"],
        "reset_peak_memory_stats": lambda: peak.update(bytes=1),
    }
    for name, value in pretended.items():
        monkeypatch.setattr(torch.cuda, name, value)
    assert peak_memory_bytes() == 7, "of an earlier run"
    Tracker(tmp_path, 0, RunLoggers([], tmp_path / "loggers.json")).close()
    assert peak_memory_bytes() == 1


@pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 1)])
def test_macos_counts_bytes(platform: str, unit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr("resource.getrusage", lambda _: SimpleNamespace(ru_maxrss=5))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert peak_memory_bytes() == 5 * unit
