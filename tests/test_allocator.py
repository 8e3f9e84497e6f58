import subprocess
import sys

import pytest

from mosaic.allocator import keep_freed_memory

glibc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc can be asked")
PAGES_AGAIN = """
import resource
from mosaic.allocator import keep_freed_memory
import torch

torch.set_num_threads(1)
if {keep}:
    assert keep_freed_memory()
for step in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(2**18) for _ in range(64)]  # 1 MiB each
    tensors.clear()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults)
"""


def faults_of_a_later_step(keep: bool) -> int:
    command = [sys.executable, "-c", PAGES_AGAIN.format(keep=keep)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@glibc
def test_freed_memory_comes_back_without_faults() -> None:
    assert faults_of_a_later_step(keep=True) * 10 < faults_of_a_later_step(keep=False)


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"])
def test_who_has_decided_is_not_overruled(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1000000")
    assert not keep_freed_memory()


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    assert not keep_freed_memory()
