"""A rank that has lost its partner says so in one line."""

import pytest

from mosaic import ranks
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
