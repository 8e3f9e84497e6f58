"""One contract for all executors: the same numbers, clear failures, and nothing left running."""

import ast
import importlib.util
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from mosaic.cli.main import main
from mosaic.client.worker import Worker
from mosaic.client_states import ClientStates
from mosaic.codec import encode
from mosaic.executors import ClientExecutor, RanksExecutor, RayExecutor, SerialExecutor
from mosaic.executors.injection import Fault
from mosaic.executors.processes import executor as ranks_executor
from mosaic.executors.processes.link import open_port
from mosaic.executors.ray import executor as ray_executor
from mosaic.messages import ClientState, Declined, EvaluateRequest, Reply, Request
from tests.small_runs import REPOSITORY, TWO_ROUNDS, assert_same_run, failed, fit_arguments, fit_other, tiny_fit

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
HERE = "tests.executors.test_executors"


class Recording(ClientExecutor):
    """Keeps every reply as bytes."""

    replies: ClassVar[list[bytes]] = []

    def map(self, requests: Iterable[Request], deadline: float | None = None) -> Iterator[Reply]:
        for reply in super().map(requests):  # type: ignore[safe-super]
            Recording.replies.append(encode(reply))
            yield reply


class RecordingSerial(Recording, SerialExecutor):
    pass


class RecordingRanks(Recording, RanksExecutor):
    pass


class RecordingRay(Recording, RayExecutor):
    pass


def children() -> list[str]:
    """Commands of this process's living children (Linux only), without the one that Python itself keeps.

    Whatever shares memory between processes, in this test or in one before it, starts Python's resource tracker, which
    lives as long as the process.
    """
    mine = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            facts = dict(line.split(":", 1) for line in status.read_text().splitlines())
            if int(facts["PPid"]) == os.getpid() and "Z" not in facts["State"]:
                mine.append((status.parent / "cmdline").read_text().replace("\0", " "))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return [command for command in mine if "multiprocessing.resource_tracker" not in command]


def executor(name: str, *more: str) -> list[str]:
    return [f"--executor={name}", "--executor.threads=1", *more]


def ranks(workers: int) -> list[str]:
    return executor("mosaic.executors.RanksExecutor", f"--executor.workers={workers}")


def on_ray(workers: int) -> list[str]:
    return executor("mosaic.executors.RayExecutor", f"--executor.workers={workers}")


def fedavg(run_dir: Path, *more: str) -> list[str]:
    return fit_arguments(run_dir, "FedAvg", *more)


def record(run_dir: Path, *more: str) -> tuple[Path, list[bytes]]:
    """Run, and return all replies; keep all snapshots."""
    Recording.replies.clear()
    main(tiny_fit(run_dir, *TWO_ROUNDS, "--federation.keep_snapshots=9", *more))
    return run_dir, list(Recording.replies)


def snapshots(run_dir: Path) -> dict[str, bytes]:
    """States of the server and the clients after every round."""
    return {str(file.relative_to(run_dir)): file.read_bytes() for file in run_dir.glob("rounds/*/**/*.safetensors")}


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes]]:
    return record(tmp_path_factory.mktemp("serial") / "run", *executor(f"{HERE}.RecordingSerial"))


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize(
    "workers", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)]
)
def test_every_executor_gives_the_same_bits(
    workers: int, serial: tuple[Path, list[bytes]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert_same_bits("RecordingRanks", workers, serial, tmp_path, capfd)


@pytest.mark.slow
@needs_ray
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_ray_gives_the_same_bits(
    workers: int, serial: tuple[Path, list[bytes]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert_same_bits("RecordingRay", workers, serial, tmp_path, capfd)


def assert_same_bits(
    name: str, workers: int, serial: tuple[Path, list[bytes]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, replies = record(tmp_path / "run", *executor(f"{HERE}.{name}", f"--executor.workers={workers}"))
    assert replies == serial[1]
    assert len(replies) > 20
    assert snapshots(run) == snapshots(serial[0])
    assert len(snapshots(run)) == 2
    assert_same_run(run, serial[0])
    assert children() == []
    assert capfd.readouterr().out.count("Run directory:") == 1


@pytest.mark.slow
@pytest.mark.usefixtures("processes")
def test_clients_states_travel_and_survive_a_change_of_executor(tmp_path: Path) -> None:
    """Personal layers live in the states of clients; half the run is on two processes, half is serial."""
    rounds = "--federation.schedule.collaborative_rounds={}"
    fit_other(tmp_path / "straight", "FedBN", rounds.format(3), *ranks(1))
    fit_other(tmp_path / "mixed", "FedBN", rounds.format(2), *ranks(2))
    fit_other(tmp_path / "mixed", "FedBN", rounds.format(3), "--ckpt_path=auto")
    ours = {file.name: file.read_bytes() for file in (tmp_path / "mixed/rounds/0003").glob("**/*.safetensors")}
    theirs = {file.name: file.read_bytes() for file in (tmp_path / "straight/rounds/0003").glob("**/*.safetensors")}
    assert ours == theirs
    assert len(ours) == 5


def launch(variables: list[dict[str, str]], arguments: list[str]) -> list[tuple[int, str, str]]:
    """Start one process for each set of variables, as a launcher does; return exit code, output and errors of each."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "mosaic", *arguments]
    started = [
        subprocess.Popen(command, env={**environment, **own}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for own in variables
    ]
    outputs = [process.communicate() for process in started]
    return [(process.returncode, *output) for process, output in zip(started, outputs, strict=True)]


def free_port() -> str:
    with open_port() as listener:
        return str(listener.getsockname()[1])


def as_torchrun_does() -> list[dict[str, str]]:
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "LOCAL_WORLD_SIZE": "2"}
    return [{**common, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"]


def as_srun_does() -> list[dict[str, str]]:
    common = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "mosaic", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
    step = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost"}
    port = {"MASTER_PORT": free_port(), "SLURM_NNODES": "1", "SLURM_NODEID": "0"}
    return [{**common, **step, **port, "SLURM_PROCID": rank, "SLURM_LOCALID": rank} for rank in "01"]


LAUNCHED = executor("mosaic.executors.RanksExecutor")


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize("launcher", [as_torchrun_does, pytest.param(as_srun_does, marks=pytest.mark.slow)])
def test_a_launched_world_gives_the_same_run_and_one_process_writes(
    launcher: Callable[[], list[dict[str, str]]], serial: tuple[Path, list[bytes]], tmp_path: Path
) -> None:
    arguments = tiny_fit(tmp_path / "run", *TWO_ROUNDS, *LAUNCHED)
    (first, said, _), (second, whispered, errors) = launch(launcher(), arguments)
    assert (first, second) == (0, 0), errors[-2000:]
    assert "Run directory:" in said
    assert whispered == errors == ""
    assert_same_run(tmp_path / "run", serial[0])


@pytest.mark.usefixtures("processes")
def test_what_the_first_process_of_a_launched_world_refuses_ends_the_others(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "something").touch()
    (first, _, said), (second, _, whispered) = launch(as_torchrun_does(), tiny_fit(tmp_path / "run", *LAUNCHED))
    assert (first, second) == (2, 0)
    assert "a run is never overwritten" in said
    assert whispered == ""


class Fails(Callback):
    """Fails local training, or kills the process that does it, in the process of this rank; in others if it is empty.

    Args:
        rank: of the process, as its environment has it.
        how: ``raise``, ``exit``, or ``kill``.
        once: a file that is made first; where it exists already nothing happens.
    """

    def __init__(self, rank: str, how: str, once: str | None = None) -> None:
        self.rank, self.how, self.once = rank, how, once

    def on_train_batch_end(self, trainer: object, pl_module: object, *_: object) -> None:
        if type(pl_module).__name__ != "ClassificationTask" or os.environ.get("RANK", "") != self.rank:
            return
        if self.once is not None:
            try:
                Path(self.once).touch(exist_ok=False)  # of processes that come at the same moment only one goes on
            except FileExistsError:
                return
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "exit":
            sys.exit(0)
        raise ZeroDivisionError("in a client's code")


def failing(rank: str, how: str, once: Path | None = None) -> str:
    arguments = f'"rank": "{rank}", "how": "{how}"' + (f', "once": "{once}"' if once else "")
    return f'--trainer.callbacks={{"class_path": "{HERE}.Fails", "init_args": {{{arguments}}}}}'


SERIAL = executor("mosaic.executors.SerialExecutor")


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize(("arguments", "rank"), [(SERIAL, ""), (ranks(2), "1")], ids=["serial", "ranks"])
def test_a_client_that_fails_names_itself_wherever_it_trains(
    arguments: list[str], rank: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert_fails_by_name(arguments, rank, "1" if rank else "0", tmp_path, capfd)


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize("arguments", [SERIAL, ranks(2)], ids=["serial", "ranks"])
@pytest.mark.parametrize("how", ["raise", "exit"])
def test_a_run_goes_on_without_a_client_that_fails_or_leaves(how: str, arguments: list[str], tmp_path: Path) -> None:
    """An exit with code 0 in a client's code would else be taken for the end of the run."""
    main(fedavg(tmp_path / "run", *arguments, failing("", how, once=tmp_path / "failed")))
    (lost,) = failed(tmp_path / "run")
    error = "ZeroDivisionError" if how == "raise" else "SystemExit"
    assert lost["reason"] == f"{error} in the client's code: its log says more"
    assert children() == []


@pytest.mark.slow
@needs_ray
def test_a_client_that_fails_on_ray_names_itself_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert_fails_by_name(on_ray(2), "", "[01]", tmp_path, capfd, traced=False)


def assert_fails_by_name(
    arguments: list[str],
    rank: str,
    clients: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    traced: bool = True,
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(fedavg(tmp_path / "run", *arguments, failing(rank, "raise"), "--federation.faults.quorum=1"))
    assert stop.value.code == 69
    *log, line = capfd.readouterr().err.splitlines()
    said = (
        rf"expected answers of at least 1 of the 4 clients asked .* missing: client {clients}.* \(ZeroDivisionError in "
    )
    assert re.match(f"mosaic: error: round 1: {said}", line)
    assert "in a client's code" not in line, "what the exception says stays with the client"
    assert re.search(rf"round 1: client {clients} failed: ZeroDivisionError", "".join(log))
    assert traced == any("on_train_batch_end" in said for said in log)
    assert children() == []


@pytest.mark.slow
def test_a_process_that_a_client_kills_is_started_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The first process, which clients do not kill, takes over meanwhile."""
    main(fedavg(tmp_path / "run", *TWO_ROUNDS, *ranks(2), failing("1", "kill")))
    told = failed(tmp_path / "run")
    assert {each["reason"] for each in told} == {"its process ended"}
    assert told[0]["round"] == told[0]["client"] == 1
    assert "worker 1 ended while it worked for client 1, and is started again" in capfd.readouterr().err
    assert children() == []


class CrashOnce(ClientExecutor):
    """Kills the first other process that is sent a request of this kind in this round."""

    killed: ClassVar[list[int]] = []

    def start(self, worker: Worker) -> None:
        super().start(worker)
        CrashOnce.killed.clear()
        self._injector.draw = self._draw  # type: ignore[method-assign]

    def _draw(self, request: Request) -> Fault:
        asked = f"{request.round}/{type(request).__name__.removesuffix('Request')}"
        elsewhere = threading.current_thread() is not threading.main_thread()
        if CrashOnce.killed or not elsewhere or asked != os.environ["CRASH"]:
            return ""
        CrashOnce.killed.append(request.client)
        return "crash"


class CrashingRanks(CrashOnce, RanksExecutor):
    pass


class CrashingRay(CrashOnce, RayExecutor):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("name", ["CrashingRanks", pytest.param("CrashingRay", marks=needs_ray)])
@pytest.mark.parametrize("asked", ["1/Train", "1/Generator", "1/Prototype", "1/Evaluate"])
def test_a_worker_killed_in_any_phase_costs_one_reply_and_nothing_else(
    name: str, asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same run as where that reply alone is lost on the way to a serial executor."""
    monkeypatch.setenv("CRASH", asked)
    more = executor(f"{HERE}.{name}", "--executor.workers=2")
    main(tiny_fit(tmp_path / "killed", *TWO_ROUNDS, *more))
    (client,) = CrashOnce.killed
    told = failed(tmp_path / "killed")
    assert told == [{"round": 1, "client": client, "asked": asked[2:], "reason": "its process ended"}]
    assert children() == []
    main(tiny_fit(tmp_path / "lost", *TWO_ROUNDS, *losing_once(asked, client)))
    assert_same_run(tmp_path / "killed", tmp_path / "lost", extended=True)


class LosingOnce(SerialExecutor):
    """Loses one reply: the first of a client to what it is asked in a round."""

    def __init__(self, asked: str, client: int, threads: int | None = 1) -> None:
        super().__init__(threads)
        lost = iter(["crash"])
        self._injector.draw = lambda request: (  # type: ignore[method-assign]
            next(lost, "")  # type: ignore[arg-type, return-value]
            if request.client == client and f"{request.round}/{type(request).__name__}" == f"{asked}Request"
            else ""
        )


def losing_once(asked: str, client: int) -> list[str]:
    return executor(f"{HERE}.LosingOnce", f"--executor.asked={asked}", f"--executor.client={client}")


@pytest.mark.slow
def test_a_launched_process_that_is_killed_ends_the_run(tmp_path: Path) -> None:
    arguments = fedavg(tmp_path / "run", *LAUNCHED, failing("1", "kill"))
    (first, _, said), (second, _, _) = launch(as_torchrun_does(), arguments)
    assert (first, second) == (1, -9)
    assert "process 1 of 2 ended while it worked for client 1" in said


@pytest.mark.slow
def test_other_processes_end_when_the_first_is_killed(tmp_path: Path) -> None:
    """Its pipes are theirs too, so that waiting for the end of its output is waiting for all of them."""
    ((code, _, errors),) = launch([{}], fedavg(tmp_path / "run", *ranks(2), failing("", "kill")))
    assert code == -9
    assert "process 1 ends, since the first process is gone" in errors


@pytest.fixture
def only_here(monkeypatch: pytest.MonkeyPatch) -> str:
    """A setting that other processes cannot carry out: they do not know this class."""
    callback = type("OnlyHere", (Callback,), {"__module__": HERE})
    monkeypatch.setattr(sys.modules[HERE], "OnlyHere", callback, raising=False)
    return f"--trainer.callbacks={HERE}.OnlyHere"


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert caught.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mosaic: error:")]
    assert children() == []
    return line


class TestBadInput:
    @pytest.mark.parametrize("name", ["RanksExecutor", pytest.param("RayExecutor", marks=needs_ray)])
    def test_more_workers_than_clients(self, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        flags = executor(f"mosaic.executors.{name}", "--executor.workers=5")
        line = refusal(capsys, *fedavg(tmp_path / "run", *flags))
        assert "executor.workers: expected at most 4, one for each client, got 5" in line
        assert not (tmp_path / "run").exists()

    def test_a_device_that_does_not_exist(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        line = refusal(
            capsys, *fedavg(tmp_path / "run", *ranks(2), "--trainer.accelerator=gpu", "--trainer.devices=[99]")
        )
        assert "trainer: " in line
        assert not (tmp_path / "run").exists()

    @needs_ray
    def test_a_dead_ray_head(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        address = f"127.0.0.1:{free_port()}"
        line = refusal(capsys, *fedavg(tmp_path / "run", *on_ray(2), f"--executor.address={address}"))
        assert f"executor.address: expected the head of a Ray cluster at {address}" in line
        assert not (tmp_path / "run").exists()

    def test_ray_is_not_installed(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "ray", None)
        assert "pip install ray" in refusal(capsys, *fedavg(tmp_path / "run", *on_ray(2)))
        assert not (tmp_path / "run").exists()

    @pytest.mark.slow
    def test_a_process_that_cannot_start(
        self, only_here: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "expected process 1 of 2 to start" in refusal(capsys, *fedavg(tmp_path / "run", *ranks(2), only_here))
        assert not (tmp_path / "run").exists()

    @needs_ray
    @pytest.mark.slow
    def test_a_ray_worker_that_cannot_start(
        self, only_here: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "a Ray worker could not start" in refusal(capsys, *fedavg(tmp_path / "run", *on_ray(1), only_here))
        assert not (tmp_path / "run").exists()


@needs_ray
@pytest.mark.slow
def test_a_dead_ray_worker_is_replaced_and_a_retry_makes_the_run_whole(
    serial: tuple[Path, list[bytes]], tmp_path: Path
) -> None:
    killed, again = tmp_path / "killed", "--federation.faults.retries=1"
    main(tiny_fit(tmp_path / "run", *TWO_ROUNDS, *on_ray(2), again, failing("", "kill", once=killed)))
    assert killed.exists()
    assert_same_run(tmp_path / "run", serial[0], extended=True)
    assert children() == []


@needs_ray
@pytest.mark.slow
def test_clients_that_kill_every_ray_worker_end_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(fedavg(tmp_path / "run", *on_ray(2), failing("", "kill")))
    assert stop.value.code == 69
    assert "got 0; missing: client 0, 1, 2, 3 (its process ended)" in capsys.readouterr().err
    assert children() == []


def test_ray_is_imported_only_when_it_is_needed() -> None:
    """No import at the top of the module: everything else works where ray is not installed."""
    top = ast.parse(Path(ray_executor.__file__).read_text()).body
    names = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in top if isinstance(node, ast.ImportFrom)}
    assert not any(name.split(".")[0] == "ray" for name in names)


def test_launched_processes_that_know_nothing_of_each_other_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "8"}
    for name, value in step.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_JOB_NAME", "mosaic")
    with pytest.raises(SystemExit) as stop:
        main(tiny_fit(tmp_path / "run", "--trainer.plugins=lightning.fabric.plugins.environments.LightningEnvironment"))
    assert stop.value.code == 2
    assert "executor: 8 processes were launched, and with SerialExecutor" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_threads_are_given_back(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    executor = SerialExecutor(threads=before + 1)
    executor.start(StillWorker())
    _set_num_threads_if_needed(num_processes=2)  # as Lightning does when it launches ranks
    assert torch.get_num_threads() == before + 1
    executor.close()
    assert torch.get_num_threads() == before


class StillWorker(Worker):
    """Answers nothing, and leaves the states of clients as they are."""

    def __init__(self) -> None:
        self.answered = 0

    def handle(self, request: Request, state: ClientState) -> tuple[Reply, ClientState]:
        self.answered += 1
        return Declined(request.client, "it is tired"), state


def test_what_stays_as_it_is_is_not_written_again() -> None:
    executor = SerialExecutor()
    executor.states = ClientStates(held_bytes=0)
    executor.states[2] = ClientState({"weight": torch.ones(3)})
    file = executor.states._kept[2]
    executor.start(worker := StillWorker())
    list(executor.map([EvaluateRequest(2, 1, {}), EvaluateRequest(1, 1, {})]))
    assert worker.answered == 2
    assert executor.states._kept == {2: file}


def test_no_number_of_signals_keeps_a_process_from_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning leaves a Trainer at each SIGTERM; the first process decides whether the run ends."""
    signals = iter(range(3))

    def answer_bytes(worker: Worker, request: bytes) -> bytes:
        if next(signals, None) is not None:
            try:
                raise SIGTERMException
            except SIGTERMException:
                sys.exit(0)
        return b"answered " + request

    monkeypatch.setattr(ranks_executor, "answer_bytes", answer_bytes)
    first, other = multiprocessing.Pipe()
    for request in (b"asked", ranks_executor._STOP):
        first.send_bytes(request)
    ranks_executor._answer_all(other, StillWorker(), rank=1)
    assert first.recv_bytes() == b"answered asked"
    for end in (first, other):  # only now: while one is open the reader ends no process
        end.close()
