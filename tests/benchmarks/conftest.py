import pytest

from tests.small_runs import REPOSITORY


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks are programs beside the package: they import one another by name."""
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which they set for good
