"""A run that is killed and goes on equals a run that never stopped."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mosaic.cli.main import main
from mosaic.federation.rounds import Rounds
from tests.small_runs import (
    FOUR_ROUNDS,
    TWO_ROUNDS,
    SharedRuns,
    assert_same_run,
    final_model,
    fit_arguments,
    run_and_die,
    tiny_fit,
    with_killer,
)

KILLS = {
    "local training": ("ClassificationTask", 10),  # four clients: in round 3
    "generators": ("GenerationTask", 2),
    "the gate": ("GatingTask", 2),
    "distillation": ("DistillationTask", 2),
}


MODELS = (
    '["global", {"class_path": "mosaic.nets.SmallCNN", "init_args": {"width": 8}}, {"class_path": "mosaic.nets.MLP"}]'
)
OWN_MODELS = [f"--clients.models={MODELS}", "--algorithm.teach_back=true", "--data.validation_share=0"]
"""Two of four clients keep a model of their own; those learn from every student, since nobody can refuse one."""
KILLS_OF_OWN_MODELS = {
    "the round in which models come back": ("ClassificationTask", 6),  # four clients: in round 2
    "teaching back": ("DistillationTask", 5),  # a student and two clients: in round 3
}


@pytest.fixture(scope="session")
def straight(shared_run: SharedRuns) -> Path:
    return shared_run("Mosaic", *FOUR_ROUNDS)


def four_rounds(run_dir: Path, *more: str) -> list[str]:
    return tiny_fit(run_dir, *FOUR_ROUNDS, *more)


@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize("phase", [pytest.param("local training", marks=pytest.mark.slow), "distillation"])
def test_a_killed_run_goes_on_bit_for_bit(phase: str, straight: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = four_rounds(run, with_killer(*KILLS[phase]))
    run_and_die(arguments)
    assert not (run / "global.ckpt").exists()
    main([*arguments, "--ckpt_path=auto"])
    assert_same_run(run, straight)


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["generators", "the gate"])
def test_a_killed_run_goes_on_bit_for_bit_from_other_phases(phase: str, straight: Path, tmp_path: Path) -> None:
    test_a_killed_run_goes_on_bit_for_bit(phase, straight, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("processes")
@pytest.mark.parametrize("phase", KILLS_OF_OWN_MODELS)
def test_what_clients_keep_and_what_is_on_its_way_back_survives(
    phase: str, shared_run: SharedRuns, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = four_rounds(run, *OWN_MODELS, with_killer(*KILLS_OF_OWN_MODELS[phase]))
    run_and_die(arguments)
    assert not (run / "global.ckpt").exists()
    main([*arguments, "--ckpt_path=auto"])
    assert_same_run(run, shared_run("Mosaic", *FOUR_ROUNDS, *OWN_MODELS))


@pytest.mark.slow
def test_sub_models_go_on_with_the_channels_of_their_round(shared_run: SharedRuns, tmp_path: Path) -> None:
    """Slices depend on the round and on nothing that a run has seen before."""
    levels = ["--clients.levels=[1.0,0.5,0.25]", "--clients.slicing=mosaic.nets.RandomChannels"]
    straight = shared_run("FedAvg", *FOUR_ROUNDS, *levels)
    branch = fit_arguments(tmp_path / "branch", "FedAvg", *FOUR_ROUNDS, *levels)
    main([*branch, f"--ckpt_path={straight / 'rounds' / '0003'}"])
    assert_same_run(tmp_path / "branch", straight)


def test_other_clients_models_are_another_run(straight: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(four_rounds(straight, "--clients.levels=[1.0,0.5]", "--ckpt_path=auto"))
    assert "clients.levels" in capsys.readouterr().err


@pytest.mark.slow
def test_other_images_are_another_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of as many, or fewer, or dealt out otherwise; a description that is damaged is made anew from what is there."""
    file, random = tmp_path / "images.npz", np.random.default_rng(0)
    images, labels = random.integers(256, size=(60, 8, 8), dtype=np.uint8), np.arange(60) % 10

    def fit(labels: np.ndarray, *more: str) -> None:
        train = {"train_images": images[: len(labels)], "train_labels": labels}
        np.savez(file, **train, test_images=images, test_labels=np.arange(60) % 10)
        source = ["--data.source=mosaic.data.NpzSource", f"--data.source.path={file}", "--data.partition.num_clients=2"]
        main(fit_arguments(tmp_path / "run", "FedAvg", *source, *more))

    fit(labels)
    on = ["--federation.schedule.collaborative_rounds=2", "--ckpt_path=auto"]
    table = tmp_path / "run" / "partition.json"
    before = table.read_text()
    for other, said in ((labels[::-1], "got others, whose labels differ"), (labels[:50], "images to train on, got 50")):
        with pytest.raises(SystemExit) as left:
            fit(other, *on)
        assert left.value.code == 2
        assert said in capsys.readouterr().err
    dealt = json.loads(before)
    dealt["clients"].reverse()
    table.write_text(json.dumps(dealt))
    with pytest.raises(SystemExit):
        fit(labels, *on)
    assert "got another partition" in capsys.readouterr().err
    table.write_text("{")
    fit(labels, *on)
    assert table.read_text() == before


def test_the_same_seed_gives_the_same_run(shared_run: SharedRuns, tmp_path: Path) -> None:
    main(tiny_fit(tmp_path / "again"))
    assert_same_run(tmp_path / "again", shared_run("Mosaic"))


@pytest.mark.slow
def test_another_seed_gives_another_run(shared_run: SharedRuns, tmp_path: Path) -> None:
    main(tiny_fit(tmp_path / "other", "--seed_everything=1"))
    ours, theirs = final_model(tmp_path / "other"), final_model(shared_run("Mosaic"))
    assert any((ours[name] != theirs[name]).any() for name in ours if "weight" in name)


@pytest.mark.slow
def test_more_rounds_may_be_added_later(straight: Path, tmp_path: Path) -> None:
    short = four_rounds(tmp_path / "run", "--federation.schedule.fine_tune_rounds=0")
    main(short)
    main([*short, "--federation.schedule.fine_tune_rounds=1", "--ckpt_path=last"])
    assert_same_run(tmp_path / "run", straight, extended=True)


def test_a_run_branches_into_a_new_folder_from_a_snapshot(straight: Path, tmp_path: Path) -> None:
    main(four_rounds(tmp_path / "branch", f"--ckpt_path={straight / 'rounds' / '0003'}"))
    assert_same_run(tmp_path / "branch", straight)


def test_a_finished_run_says_so_and_stays_as_it_is(straight: Path, tmp_path: Path) -> None:
    again = shutil.copytree(straight, tmp_path / "run")
    main(four_rounds(again, "--ckpt_path=auto"))
    assert_same_run(again, straight)


def test_a_run_that_goes_on_has_not_finished_any_more(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = shutil.copytree(straight, tmp_path / "run")
    monkeypatch.setattr(Rounds, "complete", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(four_rounds(again, "--ckpt_path=auto"))
    results = ("summary.json", "global.ckpt", "confusion.csv", "audit.json")
    (again / "audit.json").write_text("{}")
    assert all((again / name).is_file() for name in results)
    with pytest.raises(ZeroDivisionError):
        main(four_rounds(again, "--federation.schedule.fine_tune_rounds=5", "--ckpt_path=auto"))
    assert not any((again / name).exists() for name in results)


def test_a_branch_that_ends_before_its_first_round_goes_on_from_where_it_began(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    branch = four_rounds(tmp_path / "branch")
    with monkeypatch.context() as patched:
        patched.setattr(Rounds, "complete", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main([*branch, f"--ckpt_path={straight / 'rounds' / '0003'}"])
    main([*branch, "--ckpt_path=auto"])
    assert_same_run(tmp_path / "branch", straight)


def test_fedavg_takes_more_rounds_whatever_the_default_of_distilling(tmp_path: Path) -> None:
    arguments = [flag for flag in fit_arguments(tmp_path / "run", "FedAvg") if "distill_rounds" not in flag]
    main(arguments)
    main([*arguments, *TWO_ROUNDS, "--ckpt_path=auto"])
    main([*arguments, "--federation.schedule.collaborative_rounds=3", "--ckpt_path=auto"])
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 4
    rows = (tmp_path / "run" / "validation.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["round", "1", "2", "3"], "each round once, however often judged"
    assert "collaborative_rounds: 3" in (tmp_path / "run" / "config.yaml").read_text()


def test_a_snapshot_may_be_named_by_its_whole_path(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(straight, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    main(four_rounds(Path("run"), f"--ckpt_path={run.resolve() / 'rounds' / '0004'}"))
    assert_same_run(run, straight)


def test_a_snapshot_may_be_named_from_within_its_run(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(straight / "rounds")
    main(four_rounds(tmp_path / "branch", "--ckpt_path=0003"))
    assert_same_run(tmp_path / "branch", straight)


def test_a_run_that_goes_on_makes_damaged_descriptions_anew(shared_run: SharedRuns, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(shared_run("FedAvg"), run)
    whole = {name: (run / name).read_bytes() for name in ("partition.json", "environment.json")}
    for name, content in whole.items():
        (run / name).write_bytes(content[:40])
    main([*fit_arguments(run, "FedAvg", *TWO_ROUNDS), "--ckpt_path=auto"])
    assert {name: (run / name).read_bytes() for name in whole} == whole


def test_what_lies_above_the_present_folder_is_no_run_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.yaml").write_text("algorithm: {gate: {kind: prior}}\n")
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a")
    main([*fit_arguments(Path("run"), "FedAvg"), "--ckpt_path=auto"])
    assert (tmp_path / "a" / "run" / "summary.json").is_file()
