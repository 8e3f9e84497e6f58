"""FlowerGrid against a command that stands for Flower's, in processes of its own."""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mosaic.errors import MosaicError
from mosaic.executors.remote import flower
from mosaic.executors.remote.flower import FlowerGrid
from mosaic.executors.remote.grid import Delivery

FAKE = Path(__file__).with_name("fake_flwr.py")
SOURCE = Path(flower.__file__).parents[3]
Opened = Callable[..., FlowerGrid]
MOST = 1 << 20


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    """Opens grids over the fake, and closes them."""
    command = tmp_path / "bin" / "flwr"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nPYTHONPATH="{SOURCE}" exec "{sys.executable}" "{FAKE}" "$@"\n')
    command.chmod(0o755)
    for folder, file in (("app", "pyproject.toml"), ("home", "config.toml")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).touch()
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_FLWR_LOG", str(tmp_path / "log"))
    monkeypatch.setattr(flower, "_PAUSE", 0.0)
    grids: list[FlowerGrid] = []

    def open_grid(mode: str = "", **settings: Any) -> FlowerGrid:
        monkeypatch.setenv("FAKE_FLWR", mode)
        grids.append(FlowerGrid(tmp_path / "app", "mosaic", tmp_path / "home", **settings))
        return grids[-1]

    yield open_grid
    for grid in grids:
        grid.close()


def calls(tmp_path: Path) -> list[Any]:
    return [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]


def until_delivered(grid: FlowerGrid, number: str) -> Delivery:
    while not (found := grid.pull([number], MOST)):
        time.sleep(0.02)
    return found[0]


def test_messages_go_out_and_come_back_once(opened: Opened) -> None:
    grid = opened()
    assert grid.nodes() == {7: "ecdsa-sha2-nistp384 AAAA", 8: ""}
    one, other = grid.push(7, b"abc", 60), grid.push(7, b"error", 60)
    found = {delivery.number: delivery for delivery in grid.pull([one, other], MOST)}
    assert found == {one: Delivery(one, b"cba"), other: Delivery(other, None, "broken")}
    assert grid.pull([one, other], MOST) == []


def test_a_message_that_is_not_taken_is_delivered_as_an_error(opened: Opened) -> None:
    grid = opened()
    number = grid.push(8, b"abc", 60)
    (delivery,) = grid.pull([number], MOST)
    assert delivery.data is None
    assert "no message for node 8" in delivery.error
    assert grid.pull([number], MOST) == []


def test_flower_is_started_off_the_network_with_its_own_folder(opened: Opened, tmp_path: Path) -> None:
    opened()
    (((*arguments, settings), environment),) = calls(tmp_path)
    assert arguments == ["run", str(tmp_path / "app"), "mosaic", "--run-config"]
    assert settings.startswith('socket="')
    assert environment == {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_HOME": str(tmp_path / "home"),
    }


def test_another_run_follows_a_lost_one_and_messages_in_flight_are_errors(opened: Opened, tmp_path: Path) -> None:
    grid = opened()
    assert grid.nodes().keys() == {7, 8}
    lost, also = grid.push(7, b"abc", 60), grid.push(7, b"die", 60)
    assert ["was lost" in delivery.error for delivery in grid.pull([also], MOST)] == [True]
    assert ["was lost" in delivery.error for delivery in grid.pull([lost], MOST)] == [True]
    assert grid.nodes().keys() == {7, 8}, "nodes are not taken for gone while Flower comes back"
    number = grid.push(7, b"abc", 60)
    assert until_delivered(grid, number) == Delivery(number, b"cba")
    first, second = (call[0][-1] for call in calls(tmp_path))
    assert first != second, "a late app of the first run must not find the second run's socket"


def test_runs_are_started_until_one_connects(opened: Opened, tmp_path: Path) -> None:
    grid = opened()
    grid._environment["FAKE_FLWR"] = "refuses"
    grid.pull([grid.push(7, b"die", 60)], MOST)
    held, too_late = grid.push(7, b"abc", 60), grid.push(7, b"abc", 0)
    while len(calls(tmp_path)) < 3:
        assert grid.pull([held], MOST) == []
        time.sleep(0.02)
    assert "takes no message" in until_delivered(grid, too_late).error
    grid._environment["FAKE_FLWR"] = ""
    assert until_delivered(grid, held) == Delivery(held, b"cba")


def test_who_waits_too_long_for_flower_has_no_nodes(opened: Opened) -> None:
    grid = opened()
    grid._environment["FAKE_FLWR"] = "refuses"
    grid.pull([grid.push(7, b"die", 60)], MOST)
    held = grid.push(7, b"abc", 60)
    grid._patience = 0.0
    assert grid.nodes() == {}
    assert "takes no message" in until_delivered(grid, held).error


def test_too_long_an_answer_is_an_error(opened: Opened) -> None:
    """The ServerApp keeps the limit; if it does not, its word is not taken either."""
    grid = opened()
    number = grid.push(7, b"abc", 60)
    (delivery,) = grid.pull([number], 2)
    assert "at most 2 bytes" in delivery.error


@pytest.mark.parametrize(
    ("mode", "expected"), [("refuses", "the SuperLink is away"), ("never connects", "within 0.3 s")]
)
def test_what_keeps_a_run_from_starting_is_said(opened: Opened, mode: str, expected: str) -> None:
    with pytest.raises(MosaicError, match=expected) as refusal:
        opened(mode, patience=0.3 if mode == "never connects" else 60)
    assert refusal.value.exit_code == 1


def test_too_long_a_path_is_named(opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (long := tmp_path / (120 * "x")).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with pytest.raises(MosaicError, match="set TMPDIR to a shorter path"):
        opened()
    assert list(long.iterdir()) == []


def test_missing_parts_are_named(opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(MosaicError, match=r"pip install 'flwr>="):
        opened()
    (tmp_path / "app" / "pyproject.toml").unlink()
    with pytest.raises(MosaicError, match=r"executor\.app: expected the folder"):
        opened()


def test_nothing_is_left_after_close(opened: Opened) -> None:
    grid = opened()
    folder = Path(grid._folder.name)
    assert oct(folder.stat().st_mode)[-3:] == "700"
    assert oct(next(folder.glob("*.sock")).stat().st_mode)[-3:] == "600"
    grid.close()
    assert not folder.exists()
    with pytest.raises(ChildProcessError):
        os.waitpid(grid._run._process.pid, os.WNOHANG)
