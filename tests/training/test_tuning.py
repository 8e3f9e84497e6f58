"""What reaches under Lightning, the collector and the C library does its work, and changes no bit."""

import ctypes
import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
from lightning.fabric.utilities import registry
from lightning.pytorch import Trainer
from torch import Tensor

from mosaic.cli.main import main
from mosaic.training.phases import PhaseRunner, many_phases
from mosaic.training.tuning import keep_freed_memory
from tests.cases import for_each
from tests.small_runs import SharedRuns, assert_same_run, fit_arguments
from tests.training.test_blocks import batches, classification
from tests.training.test_phases import CPU, Line, numbers

needs_books = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "mallinfo2"),
    reason="only glibc, since 2.33, tells what it keeps",
)
KEPT_BYTES = """
import ctypes
from mosaic.training.tuning import give_back_freed_memory, keep_freed_memory
import torch

class Books(ctypes.Structure):  # struct mallinfo2 of glibc's malloc.h
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    _fields_ = [(name, ctypes.c_size_t) for name in names]

mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Books
torch.set_num_threads(1)
if {keep}:
    assert keep_freed_memory()
before = mallinfo().fordblks
torch.ones(6 * 2**20)  # 24 MiB
print(mallinfo().fordblks - before)
print(int(give_back_freed_memory()))
"""


def freed_24_mib(keep: bool) -> tuple[int, bool]:
    """Return how many bytes of freed 24 MiB stay with the process, and whether it then gives some back."""
    command = [sys.executable, "-c", KEPT_BYTES.format(keep=keep)]
    others = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")  # somebody's own settings, or another allocator
    environment = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    kept, given_back = map(int, done.stdout.split())
    return kept, bool(given_back)


@pytest.mark.slow
@needs_books
def test_freed_memory_stays_with_the_process_until_it_is_given_back() -> None:
    kept, given_back = freed_24_mib(keep=True)
    assert kept > 16 * 2**20
    assert given_back


@pytest.mark.slow
@needs_books
def test_without_being_asked_nothing_is_kept() -> None:
    kept, given_back = freed_24_mib(keep=False)
    assert kept < 2**20
    assert not given_back


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"])
def test_who_has_decided_is_not_overruled(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1000000")
    assert not keep_freed_memory()


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    assert not keep_freed_memory()


def test_among_many_phases_lightning_looks_for_plugins_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found, look = [], registry.entry_points
    monkeypatch.setattr(registry, "entry_points", lambda **group: found.append(group) or look(**group))
    phases = PhaseRunner(CPU)
    with many_phases():
        for _ in range(3):
            phases.run(Line(), numbers(1), seed=0)
    assert len(found) == 1
    phases.run(Line(), numbers(1), seed=0)
    assert len(found) == 2


class Collects(Line):
    """Lets the collector come by in the middle of a phase."""

    def __init__(self, generations: tuple[int, ...]) -> None:
        super().__init__()
        self._generations = generations
        self.trainers: list[weakref.ref[Trainer]] = []

    def training_step(self, batch: tuple[Tensor], batch_idx: int) -> Tensor:
        self.trainers.append(weakref.ref(self.trainer))
        for generation in self._generations:
            gc.collect(generation)
        return super().training_step(batch, batch_idx)


@for_each("collects", [(), (1,), (2,), (1, 2, 1)])
def test_among_many_phases_a_trainer_is_gone_when_its_phase_is_over(
    phases: PhaseRunner, collects: tuple[int, ...]
) -> None:
    """Also where the collector has come by in the middle, so that the Trainer is old already."""
    with many_phases():
        for _ in range(3):
            task = Collects(collects)
            phases.run(task, numbers(1), seed=0)
            assert [trainer() for trainer in task.trainers] == [None]


@for_each(("switch", "tunes"), [("on", True), ("off", False)])
def test_the_switch_decides_over_every_entry(switch: str, tunes: bool) -> None:
    called: list[str] = []
    task, phases = classification(), PhaseRunner(CPU)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOSAIC_TUNING", switch)
        patch.setattr("gc.freeze", lambda: called.append("freeze"))
        patch.setattr("gc.collect", lambda generation=2: called.append("collect"))
        patch.setattr("mosaic.training.tuning.keep_freed_memory", lambda: called.append("keep"))
        looked_up = registry.entry_points
        with many_phases():
            assert (registry.entry_points is not looked_up) == tunes
            phases.run(task, batches(task), seed=0)
        assert registry.entry_points is looked_up
    assert task._plain_steps == tunes
    assert called == (["keep", "collect", "freeze", "collect"] if tunes else [])


def test_a_run_gives_the_same_bits_with_the_switch_off(
    shared_run: SharedRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = shared_run("Mosaic")
    monkeypatch.setenv("MOSAIC_TUNING", "off")
    main(fit_arguments(tmp_path / "run", "Mosaic"))
    assert_same_run(tmp_path / "run", tuned)
