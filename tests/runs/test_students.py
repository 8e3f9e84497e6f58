"""What became of distilled models: told by the rounds."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from mosaic.report.contents import read_run
from mosaic.report.html import page
from mosaic.report.summary import print_summary
from mosaic.runs.loggers import RunLoggers
from mosaic.runs.rounds import read_rounds
from mosaic.runs.students import Students, students_of
from mosaic.runs.tracking import Tracker
from tests.small_runs import FOUR_ROUNDS, TWO_ROUNDS, SharedRuns

SMALL = [
    *FOUR_ROUNDS,
    "--algorithm.student_updates=8",
    "--algorithm.generator_updates=4",
    "--algorithm.tuning.iterations=2",
    "--algorithm.tuning.batch_size=8",
    "--algorithm.tuning.latent_dim=4",
    "--algorithm.tuning.width=2",
    "--algorithm.tuning.student_learning_rate=1000",
    "--data.validation_share=0.3",
]
"""Four rounds, each of which ruins its student."""


@pytest.fixture(scope="session")
def ruined(shared_run: SharedRuns) -> Path:
    return shared_run("FedFTG", *SMALL)


def test_every_round_tells_whether_its_student_was_taken(ruined: Path) -> None:
    rounds = read_rounds(ruined)
    assert [row["student_accepted"] for row in rounds] == [0, 0, 0, 0]
    assert students_of(rounds) == Students(offered=4, accepted=0)


def test_rounds_without_a_student_have_an_empty_cell(shared_run: SharedRuns) -> None:
    rounds = read_rounds(shared_run("FedAvg", *TWO_ROUNDS))
    assert [row["student_accepted"] for row in rounds] == [None] * 2


def test_the_closing_table_and_the_page_tell_of_refused_students(ruined: Path) -> None:
    text = io.StringIO()
    print_summary(ruined, Console(file=text, width=200))
    said = "4 of 4 students were refused"
    assert said in text.getvalue()
    assert said in page(read_run(ruined))


def no_loggers(folder: Path) -> RunLoggers:
    return RunLoggers([], folder / "loggers.json")


def test_a_table_of_rounds_that_was_begun_without_a_column_goes_on_without_it(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.csv"
    metrics.write_text("round,loss\n1,0.5\n")
    Tracker(tmp_path / "tensorboard", 1, no_loggers(tmp_path)).row(
        metrics, {"round": 2, "loss": None, "student_accepted": 1.0}
    )
    assert read_rounds(tmp_path) == [{"round": 1.0, "loss": 0.5}, {"round": 2.0, "loss": None}]


def test_numbers_are_told_of_the_round_that_wrote_them(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path / "tensorboard", 0, no_loggers(tmp_path))
    tracker.scalar("server/student_accepted", 1.0)
    assert (tracker.written("server/student_accepted"), tracker.written("server/other")) == (1.0, None)
    tracker.round = 2
    assert tracker.written("server/student_accepted") is None
