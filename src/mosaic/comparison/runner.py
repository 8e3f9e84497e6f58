"""Run what is missing, one run after the other or several side by side; a failure does not stop the others."""

import contextlib
import io
import logging
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path

from rich.console import Console

from mosaic.comparison.outcome import Failure, Outcome, check_same_request
from mosaic.comparison.request import Fit, RunRequest
from mosaic.errors import users_mistake
from mosaic.federation.progress import time_left
from mosaic.training.signals import heeding_signals, leave_if_asked_unless_distributed


def finish_all(
    fit: Fit, requests: Sequence[RunRequest], outcomes: Path, runs: Path, processes: int, console: Console
) -> list[Outcome | Failure]:
    """Return the result of every request, in their order.

    Args:
        fit: runs ``mosaic fit``.
        requests: what to run.
        outcomes: file of the outcomes; what it holds is not run again, and must belong to these requests.
        runs: folder of the run directories; an interrupted run goes on.
        processes: runs side by side.
        console: where to print.
    """
    there = {(outcome.algorithm, outcome.seed): outcome for outcome in Outcome.read_all(outcomes)}
    done: dict[RunRequest, Outcome | Failure] = {}
    for request in requests:
        if outcome := there.get((request.algorithm, request.seed)):
            check_same_request(outcome, request, outcomes, run_folder(request.algorithm, request.seed, runs))
            done[request] = outcome
    missing = [request for request in requests if request not in done]
    if done:
        console.print(f"{len(done)} of {len(requests)} runs are there already: {outcomes}")
    started = time.perf_counter()
    for number, (request, result) in enumerate(_run_each(fit, missing, runs, processes), start=1):
        if isinstance(result, Outcome):
            result.write(outcomes)
        done[request] = result
        told, seconds = f"{request.algorithm}, seed {request.seed}: {_told(result)}", time.perf_counter() - started
        spent = f"{seconds:.0f} s since the start"
        left = time_left(seconds, number, len(missing) - number)
        console.print(
            f"[{len(done)}/{len(requests)}] {told}  ({', '.join(filter(None, (spent, left)))})", soft_wrap=True
        )
    return [done[request] for request in requests]


def _run_each(
    fit: Fit, requests: Sequence[RunRequest], runs: Path, processes: int
) -> Iterator[tuple[RunRequest, Outcome | Failure]]:
    """Yield every request with its result as soon as it has one."""
    if processes == 1 or len(requests) < 2:
        for request in requests:
            yield request, run_one(fit, request, runs)
        return
    waiting, running = iter(requests), dict[Future[Outcome | Failure], RunRequest]()
    with heeding_signals(), _workers(processes) as pool:
        while True:  # never more runs than workers: what a pool has taken in cannot be taken back
            for request in islice(waiting, processes - len(running)):
                running[_submit(pool, fit, request, runs)] = request
            if not running:
                return
            for future in wait(running, timeout=1.0, return_when=FIRST_COMPLETED).done:
                request = running.pop(future)
                yield request, _result(future, request)
            leave_if_asked_unless_distributed()


@contextlib.contextmanager
def _workers(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Start worker processes; they stop at their next step if this process leaves early."""
    others = multiprocessing.active_children()
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn, initializer=_leave_with_first_process) as pool:
        try:
            yield pool
        except BaseException:
            for child in multiprocessing.active_children():
                if child not in others:
                    child.terminate()
            raise


def _leave_with_first_process() -> None:
    """End this worker when the process that has started it is gone, for whatever reason."""
    first = multiprocessing.parent_process()
    assert first is not None, "a worker has been started by somebody"

    def follow() -> None:
        first.join()
        while True:  # the run ends at its next step, and what waits for another run ends at once
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)

    threading.Thread(target=follow, daemon=True).start()


def _submit(pool: ProcessPoolExecutor, fit: Fit, request: RunRequest, runs: Path) -> Future[Outcome | Failure]:
    try:
        return pool.submit(run_one, fit, request, runs)
    except BrokenProcessPool as error:
        (future := Future[Outcome | Failure]()).set_exception(error)
        return future


def _result(future: Future[Outcome | Failure], request: RunRequest) -> Outcome | Failure:
    """Return the result of a run, also where its process was killed, which takes the others with it."""
    try:
        return future.result()
    except BrokenProcessPool:
        reason = (
            "a process has ended, with its own message above, or was killed, perhaps for want of memory: fix that, or "
            "start again with fewer --processes, runs go on"
        )
        return Failure(request.algorithm, request.seed, reason)


def run_folder(algorithm: str, seed: int, runs: Path) -> Path:
    """Return the run directory of one run; no two rows have the same, whatever paths they are named by."""
    return runs / algorithm.replace("%", "%25").replace("/", "%2F") / f"seed{seed}"


def run_one(fit: Fit, request: RunRequest, runs: Path) -> Outcome | Failure:
    """Run ``mosaic fit`` in this process, silently; go on where an earlier start of the same run stopped."""
    folder = run_folder(request.algorithm, request.seed, runs)
    try:
        with _silence(), tempfile.TemporaryDirectory(prefix="mosaic-compare-") as aside:
            fit([*request.arguments(Path(aside)), f"--federation.run_dir={folder}", "--ckpt_path=auto"])
        return Outcome.of(request, folder)
    except Exception as error:
        reason = str(users_mistake(error) or f"{type(error).__name__}: {error}")
        return Failure(request.algorithm, request.seed, " ".join(reason.split()))


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Suppress a run's log and closing tables."""
    log = logging.getLogger("mosaic")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        log.setLevel(level)


def _told(result: Outcome | Failure) -> str:
    if isinstance(result, Failure):
        return f"failed: {result.reason}"
    accuracy = result.last if result.last is not None else result.own
    return "done" if accuracy is None else f"{100 * accuracy:.2f} %"
