"""A run that is asked to leave ends with its own exit code after the step in hand, and goes on bit for bit."""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import ClassVar

import pytest
from lightning.pytorch import Callback

from mosaic.cli.main import main
from mosaic.client.worker import Worker
from mosaic.errors import MosaicError
from mosaic.federation.evaluation import Evaluator
from mosaic.runs.snapshots import Snapshot, list_snapshots
from mosaic.server.generators import GeneratorMixture
from mosaic.training.signals import (
    EXIT_CODE,
    FIRST_PROCESS,
    FIRST_PROCESS_FOLDER,
    Interruptible,
    Preempted,
    heeding_signals,
    is_told_to_leave,
    keeping_handlers,
    leave_if_asked,
    leaving_at_once,
    leaving_while_ranks_gather,
)
from tests.small_runs import FOUR_ROUNDS, REPOSITORY, SharedRuns, assert_same_run, fit_arguments, tiny_fit

SIGNALS = ["SIGTERM", "SIGUSR1"]


class AskToLeave(Callback):
    """Sends rank 0 a signal at the end of the first step of the n-th phase of one task.

    Args:
        task: class name of the task.
        number: which of its phases, from 1.
        name: of the signal.
        once: a file that is made first; where it exists already nothing happens.
    """

    phases: ClassVar[int] = 0
    steps_after: ClassVar[int] = 0

    def __init__(self, task: str, number: int, name: str, once: str) -> None:
        self.task, self.number, self.name, self.once = task, number, name, Path(once)

    def on_train_batch_end(
        self, trainer: object, pl_module: object, outputs: object, batch: object, batch_idx: int
    ) -> None:
        if os.environ.get("LOCAL_RANK", "0") != "0" or type(pl_module).__name__ != self.task:
            return
        AskToLeave.phases += batch_idx == 0
        AskToLeave.steps_after += self.once.exists()
        if AskToLeave.phases == self.number and not self.once.exists():
            self.once.touch()
            os.kill(os.getpid(), getattr(signal, self.name))


def asking(folder: Path, task: str, number: int, name: str = "SIGUSR1") -> str:
    AskToLeave.phases = AskToLeave.steps_after = 0
    arguments = f'"task": "{task}", "number": {number}, "name": "{name}", "once": "{folder / "asked"}"'
    path = "tests.training.test_signals.AskToLeave"
    return f'--trainer.callbacks={{"class_path": "{path}", "init_args": {{{arguments}}}}}'


def leave(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == EXIT_CODE == 75


def four_rounds(run: Path, algorithm: str, *more: str) -> list[str]:
    return fit_arguments(run, algorithm, *FOUR_ROUNDS, *more)


@pytest.mark.parametrize(
    ("algorithm", "name", "task", "number", "lost"),
    [
        ("FedAvg", "SIGTERM", "ClassificationTask", 6, 2),
        pytest.param("Mosaic", "SIGUSR1", "DistillationTask", 2, 3, marks=pytest.mark.slow),
    ],
    ids=["local training", "distillation"],
)
def test_a_run_leaves_after_the_step_in_hand_and_goes_on(
    algorithm: str,
    name: str,
    task: str,
    number: int,
    lost: int,
    shared_run: SharedRuns,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The sixth of four clients' phases is in round 2, the second distillation in round 3."""
    straight = shared_run(algorithm, *FOUR_ROUNDS)
    arguments = four_rounds(tmp_path / "run", algorithm, asking(tmp_path, task, number, name))
    leave(arguments)
    assert AskToLeave.steps_after == 0
    assert f"asked to leave in round {lost}" in capsys.readouterr().err
    assert list_snapshots(tmp_path / "run" / "rounds")[-1].name == f"{lost - 1:04d}"
    main([*arguments, "--ckpt_path=auto"])
    assert_same_run(tmp_path / "run", straight)


def test_the_last_finished_round_is_kept_even_if_no_snapshot_was_due(shared_run: SharedRuns, tmp_path: Path) -> None:
    straight = shared_run("FedAvg", *FOUR_ROUNDS)
    seldom = ("--federation.snapshot_every=4", asking(tmp_path, "ClassificationTask", 10, "SIGTERM"))
    arguments = four_rounds(tmp_path / "run", "FedAvg", *seldom)
    leave(arguments)
    assert [path.name for path in list_snapshots(tmp_path / "run" / "rounds")] == ["0002"]
    main([*arguments, "--ckpt_path=auto"])
    assert_same_run(tmp_path / "run", straight)


@pytest.mark.slow
def test_a_run_that_leaves_in_its_first_round_begins_again(shared_run: SharedRuns, tmp_path: Path) -> None:
    straight = shared_run("FedAvg", *FOUR_ROUNDS)
    arguments = four_rounds(tmp_path / "run", "FedAvg", asking(tmp_path, "ClassificationTask", 1))
    leave(arguments)
    assert list_snapshots(tmp_path / "run" / "rounds") == []
    main([*arguments, "--ckpt_path=auto"])
    assert_same_run(tmp_path / "run", straight)


@pytest.mark.parametrize(
    ("last", "number", "after"),
    [
        pytest.param((Worker, "_summarise"), 1, (Worker, "_summarise"), marks=pytest.mark.slow),
        ((Worker, "_evaluate"), 1, (Worker, "_evaluate")),
        pytest.param((Evaluator, "observe"), 1, (Worker, "_summarise"), marks=pytest.mark.slow),
        pytest.param((Evaluator, "observe"), 2, (Evaluator, "observe"), marks=pytest.mark.slow),
        pytest.param((Evaluator, "observe"), 4, (GeneratorMixture, "draw"), marks=pytest.mark.slow),
    ],
    ids=["prototypes", "validation", "the average", "prototype head", "teacher"],
)
def test_what_trains_nothing_is_left_when_it_is_done(
    last: tuple[type, str], number: int, after: tuple[type, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal comes while the last is called for the n-th time; what comes after it does not begin."""
    came: list[tuple[type, str]] = []

    def watch(owner: type, method: str) -> None:
        original = getattr(owner, method)

        def watched(self: object, *args: object) -> object:
            came.append((owner, method))
            result = original(self, *args)
            if came.count(last) == number and came[-1] == last:
                send("SIGTERM")
            return result

        monkeypatch.setattr(owner, method, watched)

    for one in {last, after}:
        watch(*one)
    leave(tiny_fit(tmp_path / "run"))
    assert came == [last] * number


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize(
    ("phase", "more"),
    [
        (3, ["--executor=mosaic.executors.RanksExecutor", "--executor.threads=1", "--executor.workers=2"]),
        (6, ["--trainer.devices=2", "--trainer.strategy=ddp"]),
    ],
    ids=["ranks", "data parallel"],
)
def test_all_processes_leave_with_the_first(phase: int, more: list[str], tmp_path: Path) -> None:
    """Waiting for the end of its output is waiting for all of them: their pipes are the same.

    Of four clients rank 0 trains two, or all with the other rank, so that these phases are in round 2.
    """
    arguments = four_rounds(tmp_path / "run", "FedAvg", *more, asking(tmp_path, "ClassificationTask", phase))
    command = [sys.executable, "-m", "mosaic", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == EXIT_CODE, process.stderr[-3000:]
    assert process.stderr.count("asked to leave in round 2") == 1
    assert [path.name for path in list_snapshots(tmp_path / "run" / "rounds")] == ["0001"]


@pytest.mark.parametrize(("phase", "lost"), [("training", 2), ("judging", 3)])
def test_ctrl_c_is_one_line_and_leaves_the_last_finished_round(
    phase: str, lost: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step in hand is finished, or the judgement after it: a signal does not cut anything off."""
    interrupt = "--federation.snapshot_every=1"
    if phase == "training":
        interrupt = asking(tmp_path, "ClassificationTask", 6, name="SIGINT")
    else:
        measure, calls = Evaluator.measure, count(1)
        monkeypatch.setattr(
            Evaluator, "measure", lambda *a: (send("SIGINT") if next(calls) == 2 else None, measure(*a))[1]
        )
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as stop:
        main(four_rounds(tmp_path / "run", "FedAvg", interrupt))
    assert stop.value.code == 130
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith(f"mosaic: interrupted in round {lost}, whose work is lost: --ckpt_path")
    assert "Traceback" not in said
    kept = [path.name for path in list_snapshots(tmp_path / "run" / "rounds")]
    assert kept == ["0001", "0002"][: lost - 1]
    assert signal.getsignal(signal.SIGINT) == handler


class RefusesRound2(Callback):
    """Raises a foreseen error in the second round, on every rank alike."""

    phases = 0

    def on_train_start(self, trainer: object, pl_module: object) -> None:
        RefusesRound2.phases += type(pl_module).__name__ == "ClassificationTask"
        if RefusesRound2.phases == 6:
            raise MosaicError("enough")


REFUSING = "--trainer.callbacks=tests.training.test_signals.RefusesRound2"


@pytest.mark.slow
@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize("code", [EXIT_CODE, MosaicError.exit_code])
def test_ranks_wait_until_the_first_has_written_its_snapshot(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning ends rank 0 as soon as another rank is gone with a code that is not 0; it looks every five seconds."""
    write = Snapshot.write
    monkeypatch.setattr(Snapshot, "write", lambda *given: time.sleep(6) or write(*given))
    ask = [
        "--trainer.devices=2",
        "--trainer.strategy=ddp",
        asking(tmp_path, "ClassificationTask", 6) if code == EXIT_CODE else REFUSING,
        "--federation.snapshot_every=9",
    ]
    command = [sys.executable, "-m", "mosaic", *four_rounds(tmp_path / "run", "FedAvg", *ask)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == code, process.stderr[-3000:]
    assert len([line for line in process.stderr.splitlines() if line.startswith("mosaic: ")]) == 1
    assert [path.name for path in list_snapshots(tmp_path / "run" / "rounds")] == ["0001"]


def test_a_process_ends_with_the_one_that_has_started_it_and_clears_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "of the first"
    folder.mkdir()
    started = (
        "from mosaic.training.signals import end_with_first_process; end_with_first_process(); "
        "print(1, end='', flush=True); "
    )
    started += "import time; time.sleep(60); import sys; print('outlived', file=sys.stderr)"
    program = (
        "import os, signal, subprocess, sys; os.environ['MOSAIC_FIRST_PROCESS'] = str(os.getpid()); "
        f"started = subprocess.Popen([sys.executable, '-c', {started!r}], stdout=subprocess.PIPE, stderr=sys.stderr); "
        "started.stdout.read(1); os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, FIRST_PROCESS_FOLDER: str(folder)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, "")
    assert not folder.exists()


def test_a_process_ends_whose_starter_was_gone_before_it_looked(tmp_path: Path) -> None:
    program = (
        "import time; from mosaic.training.signals import end_with_first_process; end_with_first_process(); "
        "time.sleep(60)"
    )
    environment = {**os.environ, FIRST_PROCESS: "-1", FIRST_PROCESS_FOLDER: str(tmp_path / "of the first")}
    assert subprocess.run([sys.executable, "-c", program], env=environment).returncode == 1


def test_a_process_that_is_done_first_ends_without_a_word(tmp_path: Path) -> None:
    program = (
        "import time; from mosaic.training.signals import end_with_first_process; end_with_first_process(); "
        "time.sleep(1)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stderr=subprocess.PIPE,
        env={**os.environ, FIRST_PROCESS: str(os.getpid()), FIRST_PROCESS_FOLDER: str(tmp_path / "of the first")},
    ) as process:
        assert process.wait(timeout=20) == 0  # while this process goes on
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_a_rank_ends_with_the_process_that_has_started_it() -> None:
    """Waiting for the end of the output is waiting for both: their pipes are the same."""
    rank = "from mosaic.training.signals import bind_ranks; bind_ranks(); print(1, flush=True); import time; "
    rank += "time.sleep(60); import sys; print('outlived', file=sys.stderr)"
    program = (
        "import subprocess, sys; from mosaic.training.signals import bind_ranks; bind_ranks(); "
        f"rank = subprocess.Popen([sys.executable, '-c', {rank!r}], stdout=subprocess.PIPE, stderr=sys.stderr); "
        "rank.stdout.read(1)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "outlived" not in done.stdout + done.stderr


def heeding(work: Callable[[], object]) -> Preempted:
    """Do some work, in which a signal comes, and return what it ends with."""
    with pytest.raises(Preempted) as caught, heeding_signals():
        work()
    return caught.value


def send(name: str) -> None:
    os.kill(os.getpid(), getattr(signal, name))


class TestSignals:
    @pytest.mark.parametrize("name", SIGNALS)
    def test_a_signal_is_heeded_when_it_is_convenient(self, name: str) -> None:
        done = []

        def work() -> None:
            send(name)
            done.append("the step in hand")
            leave_if_asked()

        stop = heeding(work)
        assert done == ["the step in hand"]
        assert (stop.code, stop.cause.name) == (EXIT_CODE, name)

    @pytest.mark.parametrize(("name", "code"), [("SIGTERM", 75), ("SIGUSR1", 75), ("SIGINT", 130)])
    def test_before_anything_is_begun_a_signal_ends_at_once(self, name: str, code: int) -> None:
        with pytest.raises(Preempted) as caught, leaving_at_once():
            send(name)
        assert caught.value.code == code
        assert str(caught.value).endswith("before anything was begun")

    def test_a_signal_that_somebody_swallows_is_remembered(self) -> None:
        def begin() -> None:
            with heeding_signals():
                pytest.fail("the run has begun")

        with leaving_at_once():
            with contextlib.suppress(BaseException):
                send("SIGTERM")
            with pytest.raises(Preempted):
                begin()

    def test_an_exit_of_a_clients_own_is_no_answer_to_a_signal(self) -> None:
        assert not is_told_to_leave(SystemExit(0))
        assert not is_told_to_leave(ValueError())
        assert is_told_to_leave(Preempted(signal.SIGTERM))
        with heeding_signals():
            send("SIGUSR1")
            assert is_told_to_leave(SystemExit(0))

    def test_nothing_is_left_behind(self) -> None:
        before = [signal.getsignal(getattr(signal, name)) for name in SIGNALS]
        heeding(lambda: (send("SIGUSR1"), leave_if_asked()))
        assert [signal.getsignal(getattr(signal, name)) for name in SIGNALS] == before
        with heeding_signals():
            leave_if_asked()

    def test_an_exit_that_a_signal_causes_elsewhere_gets_our_code(self) -> None:
        """As Lightning leaves a Trainer on SIGTERM."""
        assert heeding(lambda: (send("SIGTERM"), sys.exit())).code == EXIT_CODE

    def test_an_exit_of_its_own_keeps_its_code(self) -> None:
        with pytest.raises(SystemExit) as caught, heeding_signals():
            raise SystemExit(3)
        assert caught.value.code == 3

    def test_handlers_of_a_library_do_not_stay(self) -> None:
        def work() -> None:
            with keeping_handlers():
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            send("SIGTERM")
            leave_if_asked()

        assert heeding(work).cause == signal.SIGTERM

    def test_batches_pass_through(self) -> None:
        assert list(Interruptible([1, 2, 3])) == [1, 2, 3]
        assert len(Interruptible([1, 2, 3])) == 3
        with pytest.raises(TypeError):
            len(Interruptible(number for number in (1, 2)))

    def test_no_batch_comes_after_a_signal(self) -> None:
        seen: list[int] = []

        def work() -> None:
            for batch in Interruptible([1, 2, 3]):
                seen.append(batch)
                if batch == 2:
                    send("SIGUSR1")

        heeding(work)
        assert seen == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 75), ("SIGINT", 130)])
def test_a_process_that_waits_for_others_leaves_at_once(name: str, code: int, tmp_path: Path) -> None:
    """PyTorch waits in C++ for half an hour, where no handler of Python's is called."""
    waits = ["--trainer.num_nodes=2", "--trainer.strategy=ddp"]
    command = [sys.executable, "-m", "mosaic", *fit_arguments(tmp_path / "run", "FedAvg", *waits)]
    with subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        told = next(line for line in process.stderr if "waiting until" in line)
        assert "the 2 processes that train together" in told
        process.send_signal(signal.Signals[name])
        assert process.wait(timeout=20) == code
        assert "before anything was begun" in process.stderr.read()
    assert not (tmp_path / "run").exists()


def test_a_signal_that_came_before_processes_gather_is_heeded() -> None:
    with heeding_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Preempted), leaving_while_ranks_gather(list):
            pytest.fail("it was begun")


@pytest.mark.parametrize("code", [None, 0])
@pytest.mark.parametrize("cause", [signal.SIGINT, signal.SIGTERM])
def test_a_process_may_tell_another_why_it_leaves(cause: signal.Signals, code: int | None) -> None:
    """As the runs of a comparison do that work side by side."""
    leaving = Preempted(cause, code)
    leaving.when = "in round 3"
    told = pickle.loads(pickle.dumps(leaving))
    assert (told.cause, told.code, str(told)) == (leaving.cause, leaving.code, str(leaving))
