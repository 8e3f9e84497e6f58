"""Runs side by side, when somebody ends them; with stand-ins that wait where a run would train."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from rich.console import Console

from mosaic.cli.main import main
from mosaic.comparison import runner
from mosaic.comparison.request import RunRequest
from mosaic.training.signals import EXIT_CODE, INTERRUPTED, heeding_signals, leave_if_asked_unless_distributed

LIMIT = 600.0
"""Seconds after which a stand-in that nobody ends gives up."""


def test_no_two_rows_share_a_folder() -> None:
    names = ["x/y.yaml", "x-y.yaml", "x%2Fy.yaml", "x", "mosaic+heads", "fedprox, mu=0.1"]
    folders = {name: runner.run_folder(name, 0, Path("runs")) for name in names}
    assert len(set(folders.values())) == len(names)
    assert {folder.parents[1] for folder in folders.values()} == {Path("runs")}
    assert folders["mosaic+heads"] == Path("runs/mosaic+heads/seed0")


def wait_in_place_of(fit: runner.Fit, request: RunRequest, runs: Path) -> runner.Failure:
    """Say that it has begun, then heed signals as a run does, between one step and the next."""
    deadline = time.monotonic() + LIMIT
    with (runs / "begun").open("w") as begun, heeding_signals():
        begun.write(f"seed {request.seed}\n")
        begun.flush()
        while time.monotonic() < deadline:
            leave_if_asked_unless_distributed()
            time.sleep(0.02)
    return runner.Failure(request.algorithm, request.seed, "nobody came")


def finish_four(folder: Path) -> None:
    """Do what ``mosaic compare --processes 2`` does; in a process of its own."""
    runner.run_one = wait_in_place_of
    requests = [RunRequest("any", seed, (), ()) for seed in range(4)]
    runner.finish_all(main, requests, folder / "outcomes.jsonl", folder, 2, Console())


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, EXIT_CODE), (signal.SIGINT, INTERRUPTED)], ids=["SIGTERM", "SIGINT"]
)
def test_runs_end_with_their_comparison_and_no_other_begins(number: int, code: int, tmp_path: Path) -> None:
    end_four(number, code, tmp_path)


@pytest.mark.slow
def test_runs_end_when_their_comparison_is_killed(tmp_path: Path) -> None:
    """With processes of their own: forks have the signal handlers of the one that is killed."""
    end_four(signal.SIGKILL, -signal.SIGKILL, tmp_path)


def end_four(number: int, code: int, tmp_path: Path) -> None:
    """Send a signal when two of four runs are under way; the pipe that they write into ends with the last of them."""
    os.mkfifo(tmp_path / "begun")
    first = multiprocessing.get_context("spawn").Process(target=finish_four, args=(tmp_path,))
    first.start()
    with (tmp_path / "begun").open() as begun:
        assert {begun.readline(), begun.readline()} == {"seed 0\n", "seed 1\n"}
        assert first.pid is not None
        os.kill(first.pid, number)
        assert begun.read() == ""
    first.join()
    assert first.exitcode == code
