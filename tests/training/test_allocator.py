import ctypes
import os
import subprocess
import sys

import pytest

from mosaic.training.allocator import keep_freed_memory

needs_books = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "mallinfo2"),
    reason="only glibc, since 2.33, tells what it keeps",
)
KEPT_BYTES = """
import ctypes
from mosaic.training.allocator import give_back_freed_memory, keep_freed_memory
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
