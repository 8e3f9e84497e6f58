"""What a tracker writes, as TensorBoard reads it."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mosaic.cli.main import main
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
