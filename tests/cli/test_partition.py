"""``mosaic partition`` and the overlays in configs/partitions, in this process."""

import itertools
import json
import re
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mosaic.cli.main import main
from mosaic.cli.partition import UNUSED, print_partition
from mosaic.data import SklearnDigits
from tests.cli.test_main import refusal
from tests.small_runs import DIGITS, REPOSITORY, SharedRuns, fit_other, parsed

OVERLAYS = sorted((REPOSITORY / "configs" / "partitions").glob("*.yaml"))
CIFAR = REPOSITORY / "configs" / "cifar10.yaml"


def show(output: Path, *more: str) -> list[dict[str, list[int]]]:
    main(["partition", "--config", str(DIGITS), *more, "--output", str(output)])
    return json.loads((output / "partition.json").read_text())["clients"]


def test_table_indices_and_picture_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clients = show(tmp_path / "out")
    labels = SklearnDigits().load().train.labels.numpy()
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if re.match(r" +\d", line)]
    for client, (row, held) in enumerate(zip(rows, clients, strict=True)):
        counts = np.bincount(labels[held["train"]], minlength=10).tolist()
        shown = [0 if cell == "·" else int(cell) for cell in row]
        assert shown == [client, *counts, sum(counts), len(held["validation"])]
    assert (tmp_path / "out" / "partition.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["partition.json", "partition.png"]


@pytest.mark.usefixtures("drawn")
def test_it_shows_what_fit_deals(tmp_path: Path) -> None:
    run = fit_other(tmp_path / "run", "FedAvg")
    main(["partition", "--config", str(run / "config.yaml"), "--output", str(tmp_path / "out")])
    for name in ("partition.json", "partition.png"):
        assert (tmp_path / "out" / name).read_bytes() == (run / name).read_bytes()


def test_a_run_shows_the_heat_map_in_tensorboard(shared_run: SharedRuns) -> None:
    events = EventAccumulator(str(shared_run("Mosaic") / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    assert len(events.Images("data/partition")) == 1


def test_flags_of_fit_are_taken_and_those_of_data_count(tmp_path: Path) -> None:
    flags = ["--model.net=mosaic.nets.SmallCNN", "--trainer.accelerator=cpu", "--federation.run_dir=x"]
    more = ["--algorithm=mosaic.algorithms.FedAvg", "--seed_everything=4", "--data.partition.num_clients=3"]
    assert len(show(tmp_path / "out", *flags, *more)) == 3
    assert show(tmp_path / "other", "--data.partition.num_clients=3") == show(
        tmp_path / "third", "--data.partition.num_clients=3", "--seed_everything=4"
    )
    assert show(tmp_path / "fourth", "--data.seed=1") != show(tmp_path / "fifth")


def test_what_is_there_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "partition.png").write_text("mine")
    line = refusal(capsys, "partition", "--config", str(DIGITS), "--output", str(tmp_path))
    assert "partition.png exists and is never overwritten" in line
    assert "choose another folder with --output" in line
    assert [path.name for path in tmp_path.iterdir()] == ["partition.png"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--data.partition.num_clients=5000"], "need 50000 training images, got 1198"),
        (["--data.partition.num_clients=null"], "num_clients"),
        (["--data.partition=mosaic.data.NaturalPartition", "--data.partition.key=domains"], "has none"),
        (["--data.partition=mosaic.data.ReplayPartition", "--data.partition.path=none.json"], "none.json"),
        (["--federatio.run_dir=x"], "federatio"),
        (["--data.sed=1"], "sed"),
    ],
    ids=["too many", "no number", "no domains", "no file", "misspelt", "misspelt in data"],
)
def test_bad_requests_get_one_line_and_leave_nothing(
    flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert said in refusal(capsys, "partition", "--config", str(DIGITS), *flags, "--output", str(output))
    assert not output.exists()


def test_a_run_can_replay_what_was_shown(tmp_path: Path) -> None:
    clients = show(tmp_path / "out")
    replay = ["--data.partition=mosaic.data.ReplayPartition", "--data.partition.path"]
    assert show(tmp_path / "again", *replay, str(tmp_path / "out" / "partition.json"), "--data.seed=7") == clients


@pytest.mark.parametrize("config", [DIGITS, pytest.param(CIFAR, marks=pytest.mark.slow)], ids=lambda path: path.stem)
@pytest.mark.parametrize(
    "overlay",
    [path if "dirichlet" not in path.stem else pytest.param(path, marks=pytest.mark.slow) for path in OVERLAYS],
    ids=lambda path: path.stem,
)
def test_an_overlay_changes_the_partition_alone(overlay: Path, config: Path) -> None:
    before, after = parsed(config), parsed(config, overlay)
    asked = yaml.safe_load(overlay.read_text())["data"]["partition"]
    old, new = before["data"].pop("partition"), after["data"].pop("partition")
    assert before == after
    assert new["class_path"] == asked["class_path"]
    assert asked["init_args"].items() <= new["init_args"].items()
    assert new["init_args"]["num_clients"] == old["init_args"]["num_clients"]


def test_every_section_of_fit_is_taken() -> None:
    assert parsed(DIGITS).keys() == {"data", *UNUSED}


NEIGHBOURS = set(list(itertools.pairwise(OVERLAYS))[:2])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(*pair, marks=() if pair in NEIGHBOURS else pytest.mark.slow)
        for pair in itertools.product(OVERLAYS, OVERLAYS)
    ],
    ids=lambda path: path.stem,
)
def test_the_last_overlay_wins_whole(first: Path, second: Path) -> None:
    twice, once = parsed(DIGITS, first, second, command="partition"), parsed(DIGITS, second, command="partition")
    assert twice["data"]["partition"] == once["data"]["partition"]


@pytest.mark.parametrize(
    "overlay",
    [
        path if path.stem in ("iid", "pathological") else pytest.param(path, marks=pytest.mark.slow)
        for path in OVERLAYS
        if path.stem != "domains"
    ],
    ids=lambda path: path.stem,
)
def test_an_overlay_deals_digits(overlay: Path, tmp_path: Path) -> None:
    assert len(show(tmp_path / "out", "--config", str(overlay))) == 10


@pytest.fixture
def narrow() -> Console:
    return Console(file=StringIO(), width=50)


def text_of(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_numbers_are_never_folded_where_the_terminal_is_narrow(narrow: Console) -> None:
    counts = np.full((2, 20), 12345)
    print_partition(counts, np.array([7, 7]), tuple(f"class {i}" for i in range(20)), 10**6, narrow)
    assert text_of(narrow).count("12345") == 40


def test_many_classes_are_summed_up_and_many_clients_cut_off(narrow: Console) -> None:
    counts = np.zeros((103, 21), dtype=int)
    counts[:, 20], counts[:, 3] = 9, 4
    print_partition(counts, np.zeros(103, dtype=int), tuple(f"n{i}" for i in range(21)), 2000, narrow)
    text = text_of(narrow)
    assert "and 3 more, which partition.json holds" in text
    assert [line.split() for line in text.splitlines() if line.split()[:1] == ["99"]] == [
        ["99", "13", "·", "2", "n20", "9"]
    ]
    assert "103 clients hold 1339 of 2000 training images" in text


def test_names_of_classes_are_text_and_no_markup(narrow: Console) -> None:
    print_partition(np.ones((2, 2), dtype=int), np.zeros(2, dtype=int), ("[/b]", "[red]x"), 4, narrow)
    assert "[/b]" in text_of(narrow)
    assert "[red]x" in text_of(narrow)


def test_a_folder_that_takes_no_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as left:
        show(tmp_path / "file" / "below")
    assert left.value.code == 2
    assert "--output" in capsys.readouterr().err
