"""With which configuration a run goes on: the one that it was started with, apart from rounds to come."""

from pathlib import Path

import pytest

from mosaic.algorithms import DENSE, DFRD, Algorithm, CoBoosting, FedAvg, FedFTG, FedProx, Mosaic, PrototypeHead
from mosaic.errors import MosaicError
from mosaic.federation.resumption import check_same
from mosaic.runs.directory import RunDirectory
from mosaic.runs.snapshots import Snapshot
from mosaic.server.state import ServerState


def config(**schedule: int) -> dict[str, object]:
    return {"federation": {"schedule": {"collaborative_rounds": 10, "fine_tune_rounds": 3, **schedule}}}


def goes_on(folder: Path, algorithm: type[Algorithm], after: int, **schedule: int) -> bool:
    directory = RunDirectory(folder)
    directory.write_config(config())
    snapshot = Snapshot(after, ServerState({}))
    try:
        check_same(directory, config(**schedule), snapshot, 4, algorithm.resume_sensitive_to)
    except MosaicError as error:
        if f"federation.schedule (rounds 1..{after} would have been other ones" not in str(error):
            raise
        return False
    return True


@pytest.mark.parametrize("algorithm", [Mosaic, DENSE, CoBoosting])
def test_who_has_distilled_cannot_have_done_so_elsewhere(algorithm: type[Algorithm], tmp_path: Path) -> None:
    assert goes_on(tmp_path, algorithm, 9, collaborative_rounds=20)
    assert not goes_on(tmp_path, algorithm, 13, collaborative_rounds=20)
    assert goes_on(tmp_path, algorithm, 13, fine_tune_rounds=6)


def test_a_schedule_of_fewer_rounds_than_are_done_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(MosaicError, match=r"federation.schedule \(5 rounds are done, and it has 3: plan as many\)"):
        goes_on(tmp_path, Mosaic, 5, collaborative_rounds=2, fine_tune_rounds=1)


@pytest.mark.parametrize("algorithm", [FedFTG, DFRD])
def test_who_shares_out_updates_over_all_rounds_takes_no_more_of_them(
    algorithm: type[Algorithm], tmp_path: Path
) -> None:
    assert goes_on(tmp_path, algorithm, 5)
    assert not goes_on(tmp_path, algorithm, 5, fine_tune_rounds=6)


@pytest.mark.parametrize("algorithm", [FedAvg, FedProx, PrototypeHead])
def test_averaging_takes_more_rounds_until_the_small_rate_has_begun(algorithm: type[Algorithm], tmp_path: Path) -> None:
    assert goes_on(tmp_path, algorithm, 10, collaborative_rounds=20, fine_tune_rounds=0)
    assert goes_on(tmp_path, algorithm, 13, fine_tune_rounds=6)
    assert not goes_on(tmp_path, algorithm, 11, collaborative_rounds=20, fine_tune_rounds=0)


def test_an_algorithm_that_says_nothing_is_sensitive_to_everything() -> None:
    assert Algorithm.resume_sensitive_to == {"distillation", "last", "rounds"}


@pytest.mark.parametrize("data", [b"", b"federation: {sched", b"model: {}\n", bytes(range(256)), b"- 1\n"])
def test_a_damaged_configuration_is_named(data: bytes, tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.config.write_bytes(data)
    with pytest.raises(MosaicError, match=r"config.yaml is damaged .*: restore it from a copy, or start a new run"):
        check_same(directory, config(), Snapshot(1, ServerState({})), 4, sensitive_to=())
