"""What a tracker writes, as TensorBoard reads it."""

from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mosaic.runs.loggers import RunLoggers
from mosaic.runs.tracking import Tracker


def test_curves_of_several_rounds_lie_apart_after_a_resume_too(tmp_path: Path) -> None:
    for round in (1, 2):  # each by a tracker of its own, as after a resume
        tracker = Tracker(tmp_path, round - 1, RunLoggers([], tmp_path / "loggers.json"))
        tracker.curves("distillation", {"loss": torch.tensor([round, round / 2])})
        tracker.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    found = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert found == {
        "distillation/loss/round_1": [(0, 1), (1, 0.5)],
        "distillation/loss/round_2": [(0, 2), (1, 1)],
    }
