"""The method works: a student of experts that are bad, each alone, beats their average and their mean."""

from pathlib import Path

import pytest

from mosaic.cli.main import main
from tests.small_runs import DIGITS, stages


@pytest.mark.slow
def test_a_student_is_far_better_than_the_average_and_the_ensemble_that_it_comes_from(tmp_path: Path) -> None:
    """Without a new head, which would make up for what distillation fails to teach."""
    short = ["--federation.schedule.collaborative_rounds=5", "--federation.schedule.fine_tune_rounds=0"]
    run = ["--algorithm.new_head=false", f"--federation.run_dir={tmp_path / 'run'}"]
    main(["fit", "--config", str(DIGITS), *short, *run])
    found = stages(tmp_path / "run")
    assert found["student"] > found["global before distillation"] + 0.05
    assert found["student"] > found["plain ensemble"] + 0.2
    assert found["student"] > 0.9
