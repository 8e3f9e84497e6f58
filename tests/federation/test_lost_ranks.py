"""A rank that has lost its partner says so in one line, and one that fails as rank 0 does leaves the word to it."""

from collections.abc import Callable
from datetime import timedelta
from itertools import cycle

import pytest
import torch

from mosaic import ranks
from mosaic.errors import MosaicError
from mosaic.executors.base import WorkerLostError
from mosaic.federation import federation
from mosaic.federation.federation import _naming_lost_ranks

LOST = "[/build/gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:30861: Connection reset by peer"


@pytest.fixture(autouse=True)
def two_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (ranks, federation):
        monkeypatch.setattr(module, "world_size", lambda: 2)


def test_a_broken_line_to_another_rank_is_one_sentence() -> None:
    with (
        pytest.raises(WorkerLostError, match="another of the 2 processes that train together has ended"),
        _naming_lost_ranks(),
    ):
        raise RuntimeError(LOST)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError(LOST)])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, _naming_lost_ranks():
        raise error
    assert caught.value is error


def test_alone_nobody_can_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "world_size", lambda: 1)
    assert not ranks.has_lost_a_rank(RuntimeError(LOST))


@pytest.fixture
def end(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], BaseException]:
    """Let rank 0, rank 1, rank 0 ... end with an error each; return what each of them leaves with."""
    store, rank = torch.distributed.HashStore(), cycle([0, 1])
    monkeypatch.setattr(ranks._c10d, "_get_default_store", lambda: store)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: next(rank))
    monkeypatch.setattr(ranks, "_LONGEST_END", timedelta(milliseconds=10))

    def ends(error: Exception) -> BaseException:
        with pytest.raises((Exception, SystemExit)) as caught, ranks.ending_after_rank_0(MosaicError):
            raise error
        return caught.value

    return ends


def test_ranks_that_fail_alike_leave_the_exit_code_to_rank_0(end: Callable[[Exception], BaseException]) -> None:
    error = MosaicError("too few clients answered")
    assert end(error) is error
    leaving = end(error)
    assert isinstance(leaving, SystemExit)
    assert leaving.code == 0


def test_what_nobody_has_foreseen_ends_a_rank_at_once(end: Callable[[Exception], BaseException]) -> None:
    for _ in range(2):
        error = ValueError("a fault of the package")
        assert end(error) is error


def test_a_rank_that_has_lost_another_waits_for_nobody(end: Callable[[Exception], BaseException]) -> None:
    for _ in range(2):
        error = WorkerLostError("another of the 2 processes has ended")
        error.__cause__ = RuntimeError(LOST)
        assert end(error) is error


def test_a_rank_that_fails_alone_keeps_its_error(end: Callable[[Exception], BaseException]) -> None:
    error = MosaicError("of this rank's share")
    torch.distributed.get_rank()  # rank 0 has not failed
    assert end(error) is error
