"""Run what is missing, one run after the other or some side by side; one that fails does not stop the others."""

import contextlib
import io
import logging
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from mosaic.cli import users_mistake
from mosaic.comparison.outcome import Outcome, check_same_request
from mosaic.comparison.request import RunRequest


@dataclass(frozen=True)
class Failure:
    """A run that came to nothing.

    Attributes:
        algorithm: what it is called in the table.
        seed: of the run.
        reason: in one line.
    """

    algorithm: str
    seed: int
    reason: str


def finish_all(
    requests: Sequence[RunRequest], outcomes: Path, runs: Path, processes: int, console: Console
) -> list[Outcome | Failure]:
    """Return what became of every request, in their order.

    Args:
        requests: what to run.
        outcomes: folder of the outcomes; what lies there already is not run again.
        runs: folder of the run directories; an interrupted run goes on.
        processes: runs side by side.
        console: is told what happens.

    Raises:
        MosaicError: an outcome lies there that belongs to another request; nothing was run.
    """
    files = {request: outcomes / f"{request.name.replace('/', '-')}.json" for request in requests}
    done: dict[RunRequest, Outcome | Failure] = {}
    for request, file in files.items():
        if file.is_file():
            outcome = Outcome.read(file)
            check_same_request(outcome, request, file)
            done[request] = outcome
    missing = [request for request in requests if request not in done]
    if done:
        console.print(f"{len(done)} of {len(requests)} runs are there already: {outcomes}", highlight=False)
    started = time.perf_counter()
    for request, result in _run_each(missing, runs, processes):
        if isinstance(result, Outcome):
            result.write(files[request])
        done[request] = result
        _tell(request, result, f"[{len(done)}/{len(requests)}]", time.perf_counter() - started, console)
    return [done[request] for request in requests]


def _run_each(
    requests: Sequence[RunRequest], runs: Path, processes: int
) -> Iterator[tuple[RunRequest, Outcome | Failure]]:
    """Yield every request with its result as soon as it is there."""
    if processes == 1 or len(requests) < 2:
        for request in requests:
            yield request, run_one(request, runs)
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        asked = {pool.submit(run_one, request, runs): request for request in requests}
        try:
            for future in as_completed(asked):
                yield asked[future], _result(future, asked[future])
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _result(future: Future[Outcome | Failure], request: RunRequest) -> Outcome | Failure:
    """Return what came of a run, even where its process was killed, which takes the others' along."""
    try:
        return future.result()
    except BrokenProcessPool:
        reason = "a process was killed, perhaps for want of memory: start again with fewer --processes, runs go on"
        return Failure(request.algorithm, request.seed, reason)


def run_one(request: RunRequest, runs: Path) -> Outcome | Failure:
    """Run ``mosaic fit`` in this process, silently; go on where an earlier start of the same run stopped."""
    from mosaic.lightning_cli import run

    folder = runs / request.algorithm.replace("/", "-") / f"seed{request.seed}"
    try:
        with _silence():
            run([*request.arguments(), f"--federation.run_dir={folder}", "--ckpt_path=auto"])
        return Outcome.of(request, folder)
    except Exception as error:
        reason = str(users_mistake(error) or f"{type(error).__name__}: {error}")
        return Failure(request.algorithm, request.seed, " ".join(reason.split()))


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep a run's log and closing tables to itself."""
    log = logging.getLogger("mosaic")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        log.setLevel(level)


def _tell(request: RunRequest, result: Outcome | Failure, progress: str, seconds: float, console: Console) -> None:
    match result:
        case Failure(reason=reason):
            said = f"failed: {reason}"
        case Outcome(last=last, own=own):
            accuracy = last if last is not None else own
            said = "done" if accuracy is None else f"{100 * accuracy:.2f} %"
    console.print(
        f"{progress} {request.algorithm}, seed {request.seed}: {said}  ({seconds:.0f} s since the start)",
        highlight=False,
        soft_wrap=True,
    )
