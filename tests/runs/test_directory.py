"""The folder of a run: who may write there, and with which schedule a run goes on."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch

from mosaic.algorithms import DENSE, DFRD, Algorithm, CoBoosting, FedAvg, FedFTG, FedProx, Mosaic, PrototypeHead
from mosaic.algorithms.fedavg import average
from mosaic.errors import MosaicError
from mosaic.executors.client_states import ClientStates
from mosaic.messages import ClientState
from mosaic.runs.append_only import check_sizes, cut_back
from mosaic.runs.directory import RunDirectory
from mosaic.runs.environment import describe_environment
from mosaic.runs.ledger import Ledger
from mosaic.runs.resumption import check_same
from mosaic.runs.snapshots import Snapshot, list_snapshots
from mosaic.server.state import ServerState
from tests.small_runs import TWO_ROUNDS, SharedRuns, fit_other


def config(**schedule: int) -> dict[str, object]:
    return {"federation": {"schedule": {"collaborative_rounds": 10, "fine_tune_rounds": 3, **schedule}}}


def goes_on(folder: Path, algorithm: type[Algorithm], after: int, **schedule: int) -> bool:
    directory = RunDirectory(folder)
    directory.write_config(config())
    snapshot = Snapshot(after, ServerState({}))
    try:
        check_same(directory, config(**schedule), snapshot, 4, algorithm.heeds)
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


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    """What a killed process has left aside is cleared away, and the claim moves with the folder."""
    aside, run = tmp_path / "runs" / ".run.new", tmp_path / "runs" / "run"
    (aside / "rounds" / "0001").mkdir(parents=True)
    (aside / "config.yaml").write_text("half of a configurat")
    directory = RunDirectory(run)
    directory.create(config(), lambda folder: (folder / "partition.json").touch())
    assert sorted(path.name for path in run.iterdir()) == [
        *(".lock", "config.yaml", "environment.json", "partition.json", "rounds", "tensorboard")
    ]
    assert list((run / "rounds").iterdir()) == []
    assert list(run.parent.iterdir()) == [run]
    with pytest.raises(MosaicError, match="another process is at work"):
        RunDirectory(run).claim()
    directory.close()


def test_a_folder_that_cannot_be_filled_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "partition.json").touch()
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        RunDirectory(tmp_path / "runs" / "today" / "run").create(config(), fail)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_process_is_making_is_left_alone(tmp_path: Path) -> None:
    other = RunDirectory(tmp_path / ".run.new")
    other.path.mkdir()
    other.claim()
    with pytest.raises(MosaicError, match="another process is at work"):
        RunDirectory(tmp_path / "run").create(config())
    assert other.path.is_dir()
    other.close()


def test_a_folder_that_is_no_run_is_not_recommended(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    with pytest.raises(MosaicError, match=r"choose another name with --federation.run_dir, or move it away$"):
        RunDirectory(tmp_path).create(config())


@pytest.mark.parametrize("name", ["x" * 300, "x" * 252, "nul\0"])
def test_a_name_that_no_folder_can_have_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(MosaicError, match="cannot be made a folder"):
        RunDirectory(tmp_path / name).check_name()


@pytest.mark.parametrize("data", [b"", b"federation: {sched", b"model: {}\n", bytes(range(256)), b"- 1\n"])
def test_a_damaged_configuration_is_named(data: bytes, tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.config.write_bytes(data)
    with pytest.raises(MosaicError, match=r"config.yaml is damaged .*: restore it from a copy, or start a new run"):
        check_same(directory, config(), Snapshot(1, ServerState({})), 4, sensitive_to=())


def test_tables_that_are_shorter_than_a_snapshot_counts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("round,loss\n1,0.5\n")
    newest = tmp_path / "rounds" / "0002"
    make(tmp_path / "rounds", ["0001", "0002"])
    check_sizes(tmp_path, {"metrics.csv": 17}, newest)
    with pytest.raises(MosaicError, match=r"metrics.csv holds 17 bytes where .*0002 counts 18: .*goes on from .*0001"):
        check_sizes(tmp_path, {"metrics.csv": 18}, newest)
    with pytest.raises(MosaicError, match=r"validation.csv holds 0 bytes"):
        check_sizes(tmp_path, {"validation.csv": 1}, newest)


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("server.safetensors", flip),
        ("run.json", flip),
        ("clients/0003.safetensors", flip),
        ("clients/0003.safetensors", Path.unlink),
        ("run.json", Path.unlink),
        ("server.safetensors", lambda file: file.write_bytes(b"")),
        ("run.json", lambda file: file.write_text("[]")),
        ("clients/0004.safetensors", Path.touch),
    ],
)
def test_a_snapshot_of_which_a_bit_has_changed_is_refused_and_the_one_before_offered(
    name: str, spoil: Callable[[Path], object], tmp_path: Path
) -> None:
    state = ServerState({"w": torch.arange(64.0)})
    clients = ClientStates()
    clients[3] = ClientState({"own": torch.ones(9)})
    for round in (1, 2):
        Snapshot(round, state, clients, Ledger(updates={"local": 3})).write(tmp_path, keep=2)
    newest = tmp_path / "0002"
    found = Snapshot.read(newest)
    assert (found.round, found.ledger.updates) == (2, {"local": 3})
    assert torch.equal(found.clients[3].tensors["own"], torch.ones(9))
    spoil(newest / name)
    with pytest.raises(MosaicError, match=rf"delete {newest}, and --ckpt_path auto goes on from {tmp_path}/0001"):
        Snapshot.read(newest)
    shutil.rmtree(tmp_path / "0001")
    with pytest.raises(MosaicError, match=f"no older one is left: delete {newest}, and --ckpt_path auto begins anew"):
        Snapshot.read(newest)


def test_a_snapshot_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Snapshot(1, ServerState({"w": torch.ones(2)})).write(tmp_path, keep=2)
    monkeypatch.setattr("mosaic.runs.snapshots.write_synced", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        Snapshot(2, ServerState({"w": torch.ones(2)})).write(tmp_path, keep=2)
    assert [path.name for path in tmp_path.iterdir()] == ["0001"]


def test_only_folders_with_the_number_of_a_round_are_snapshots(tmp_path: Path) -> None:
    make(tmp_path, ["0002", "0010", "0010.bak", ".0011.tmp", "notes"])
    assert [path.name for path in list_snapshots(tmp_path)] == ["0002", "0010"]


def make(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        (folder / name).mkdir(parents=True)


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
