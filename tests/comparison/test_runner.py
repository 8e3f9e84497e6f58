"""Runs side by side, when somebody ends them; with stand-ins that wait where a run would train."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mosaic.comparison import runner
from mosaic.comparison.request import RunRequest
from mosaic.preemption import EXIT_CODE, heeding_signals, leave_if_alone_and_asked

WAIT = 60.0
ROOT = Path(__file__).parents[2]


def wait_in_place_of(request: RunRequest, runs: Path) -> runner.Failure:
    """Say that it has begun, then heed signals as a run does, between one step and the next."""
    (runs / request.name).write_text(str(os.getpid()))
    deadline = time.monotonic() + WAIT
    with heeding_signals():
        while time.monotonic() < deadline:
            leave_if_alone_and_asked()
            time.sleep(0.02)
    return runner.Failure(request.algorithm, request.seed, "nobody came")


def finish_four(folder: Path) -> None:
    """Do what ``mosaic compare --processes 2`` does; in a process of its own."""
    from rich.console import Console

    runner.run_one = wait_in_place_of
    requests = [RunRequest("any", seed, (), ()) for seed in range(4)]
    runner.finish_all(requests, folder / "outcomes", folder, 2, Console())


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, EXIT_CODE), (signal.SIGINT, None), (signal.SIGKILL, -signal.SIGKILL)],
    ids=["SIGTERM", "SIGINT", "SIGKILL"],
)
def test_runs_end_with_their_comparison_and_no_other_begins(number: int, code: int | None, tmp_path: Path) -> None:
    program = (
        f"from pathlib import Path; import tests.comparison.test_runner as t; t.finish_four(Path({str(tmp_path)!r}))"
    )
    guarded = f"if __name__ == '__main__':\n    {program}\n"
    (tmp_path / "four.py").write_text(guarded)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "four.py")], env=environment, stderr=subprocess.PIPE
    ) as first:
        until(lambda: len(workers(tmp_path)) == 2)
        began = workers(tmp_path)
        first.send_signal(number)
        first.wait(timeout=WAIT)
    assert code in (None, first.returncode)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in began))
    assert workers(tmp_path) == began


def workers(folder: Path) -> list[str]:
    return [text for text in (file.read_text() for file in sorted(folder.glob("any-seed*"))) if text]


def until(holds) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + WAIT / 2
    while not holds():
        assert time.monotonic() < deadline, "this has taken too long"
        time.sleep(0.05)
