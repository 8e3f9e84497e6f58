"""The folder of a run: who may write there, and with which schedule a run goes on."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from mosaic.algorithms import DENSE, DFRD, Algorithm, CoBoosting, FedAvg, FedFTG, FedProx, Mosaic, PrototypeHead
from mosaic.algorithms.fedavg import average
from mosaic.errors import MosaicError
from mosaic.federation.run_directory import RunDirectory, cut_back, describe_environment
from mosaic.federation.snapshots import Snapshot, list_snapshots
from mosaic.server.state import ServerState
from tests.runs import TWO_ROUNDS, SharedRuns, fit_other


def config(**schedule: int) -> dict[str, object]:
    return {"federation": {"schedule": {"collaborative_rounds": 10, "fine_tune_rounds": 3, **schedule}}}


def goes_on(folder: Path, algorithm: type[Algorithm], after: int, **schedule: int) -> bool:
    directory = RunDirectory(folder)
    directory.write_config(config())
    snapshot = Snapshot(after, ServerState({}))
    try:
        directory.check_same(config(**schedule), snapshot, num_clients=4, heeds=algorithm.heeds)
    except MosaicError as error:
        return f"federation.schedule (rounds 1..{after} would have been other ones" not in str(error)
    return True


@pytest.mark.parametrize("algorithm", [Mosaic, DENSE, CoBoosting])
def test_who_has_distilled_cannot_have_done_so_elsewhere(algorithm: type[Algorithm], tmp_path: Path) -> None:
    assert goes_on(tmp_path, algorithm, 9, collaborative_rounds=20)
    assert not goes_on(tmp_path, algorithm, 13, collaborative_rounds=20)
    assert goes_on(tmp_path, algorithm, 13, fine_tune_rounds=6)


@pytest.mark.parametrize("algorithm", [FedFTG, DFRD])
def test_who_shares_out_updates_over_all_rounds_takes_no_more_of_them(
    algorithm: type[Algorithm], tmp_path: Path
) -> None:
    assert goes_on(tmp_path, algorithm, 5)
    assert not goes_on(tmp_path, algorithm, 5, fine_tune_rounds=6)


def test_a_new_head_is_the_last_thing(tmp_path: Path) -> None:
    assert goes_on(tmp_path, PrototypeHead, 12, fine_tune_rounds=6)
    assert not goes_on(tmp_path, PrototypeHead, 13, fine_tune_rounds=6)


@pytest.mark.parametrize("algorithm", [FedAvg, FedProx])
def test_averaging_takes_more_rounds_until_the_small_rate_has_begun(algorithm: type[Algorithm], tmp_path: Path) -> None:
    assert goes_on(tmp_path, algorithm, 10, collaborative_rounds=20, fine_tune_rounds=0)
    assert goes_on(tmp_path, algorithm, 13, fine_tune_rounds=6)
    assert not goes_on(tmp_path, algorithm, 11, collaborative_rounds=20, fine_tune_rounds=0)


def test_an_algorithm_that_says_nothing_heeds_everything() -> None:
    assert Algorithm.heeds == {"distils", "last", "rounds"}


def test_a_folder_is_claimed_by_one_process_at_a_time(tmp_path: Path) -> None:
    first, second = RunDirectory(tmp_path), RunDirectory(tmp_path)
    first.claim()
    with pytest.raises(MosaicError, match=r"another process is at work in .*: wait for it, or choose another"):
        second.claim()
    first.close()
    second.claim()
    second.close()


def test_a_run_that_another_process_is_at_is_left_alone(
    shared_run: SharedRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(shared_run("FedAvg"), tmp_path / "run")
    before = contents(run)
    other = RunDirectory(run)
    other.claim()
    with pytest.raises(SystemExit) as stop:
        fit_other(run, "FedAvg", "--ckpt_path=auto")
    assert stop.value.code == 2
    assert "another process is at work" in capsys.readouterr().err
    assert contents(run) == before
    other.close()


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_are_cut_back_and_never_filled_up(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("round,loss\n1,0.5\n")
    cut_back(tmp_path, {"metrics.csv": 11})
    assert (tmp_path / "metrics.csv").read_bytes() == b"round,loss\n"
    cut_back(tmp_path, {"metrics.csv": 400})
    assert (tmp_path / "metrics.csv").read_bytes() == b"round,loss\n"


def test_only_folders_with_the_number_of_a_round_are_snapshots(tmp_path: Path) -> None:
    make(tmp_path, ["0002", "0010", "0010.bak", ".0011.tmp", "notes"])
    assert [path.name for path in list_snapshots(tmp_path)] == ["0002", "0010"]


def make(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        (folder / name).mkdir()


def test_finished_rounds_outlast_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def fail_later(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise RuntimeError("out of memory")
        return average(*arguments, **options)

    monkeypatch.setattr("mosaic.algorithms.fedavg.average", fail_later)
    with pytest.raises(RuntimeError, match="out of memory"):
        fit_other(tmp_path / "run", "FedAvg", *TWO_ROUNDS, "--federation.snapshot_every=100")
    assert [path.name for path in list_snapshots(tmp_path / "run" / "rounds")] == ["0001"]


def test_where_there_is_no_git_the_commit_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe_environment()["git_commit"] is None
