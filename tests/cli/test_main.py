"""The command line, in this process."""

import argparse
import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest
import torch
import yaml

from mosaic.cli.main import check, main
from mosaic.client.objectives import LocalContext, LocalObjective
from mosaic.data import SklearnDigits
from mosaic.tasks.classification import LocalLoss
from tests.small_runs import (
    DIGITS,
    REPOSITORY,
    TINY,
    TWO_ROUNDS,
    UNSEEN,
    SharedRuns,
    dry_run,
    fit_arguments,
    stages,
    tiny_fit,
)

PRESETS = REPOSITORY / "src" / "mosaic" / "presets"
CONFIGS = sorted([*(REPOSITORY / "configs").rglob("*.yaml"), *PRESETS.glob("*.yaml")])


@pytest.fixture(scope="session")
def run(shared_run: SharedRuns) -> Path:
    return shared_run("Mosaic", *TWO_ROUNDS)


def again(run: Path, *more: str) -> list[str]:
    """Arguments of the same run."""
    return tiny_fit(run, *TWO_ROUNDS, *more)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a bad request gets."""
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mosaic: error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_a_rate_of_the_optimiser_is_refused_since_rounds_have_their_own(
    optimizer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rate = ("--model.optimizer.init_args.lr=0.05",)
    line = refusal(capsys, *tiny_fit(tmp_path / "run", f"--model.optimizer=torch.optim.{optimizer}", *rate))
    assert "model.optimizer.init_args.lr: 0.05 would have no effect" in line
    assert "federation.schedule.learning_rate" in line
    assert not (tmp_path / "run").exists()


def test_fit_leaves_everything_a_reader_needs(run: Path) -> None:
    left = {path.name for path in run.iterdir()}
    assert left == {
        ".lock",
        "config.yaml",
        "confusion.csv",
        "environment.json",
        "global.ckpt",
        "metrics.csv",
        "partition.json",
        "partition.png",
        "rounds",
        "summary.json",
        "tensorboard",
        "validation.csv",
    }
    assert [path.name for path in sorted((run / "rounds").iterdir())] == ["0001", "0002"]


def test_every_stage_is_measured(run: Path) -> None:
    names = set(stages(run))
    assert {"global before distillation", "plain ensemble", "gated teacher", "student"} <= names
    assert {f"expert: client {client}" for client in range(4)} <= names


def test_the_summary_names_where_to_look(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    main(again(copy, "--ckpt_path=last"))
    printed = capsys.readouterr().out
    assert "tensorboard --logdir" in printed
    assert f"Run directory: {copy}" in printed


@pytest.mark.slow
def test_the_summary_says_what_has_become_of_the_student(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without validation images nobody can refuse it; without a distilling round there is none."""
    main(again(tmp_path / "taken", *UNSEEN))
    taken = capsys.readouterr().out
    assert "after fine-tuning" in taken
    assert "student was refused" not in taken
    main(tiny_fit(tmp_path / "none", "--federation.schedule.distill_rounds=[]"))
    assert "after fine-tuning" not in capsys.readouterr().out


def last_row(table: Path) -> list[str]:
    return table.read_text().splitlines()[-1].split(",")


def shown_accuracy(capsys: pytest.CaptureFixture[str]) -> float:
    return float(re.search(r"(?:test|val)/accuracy\D+([\d.]+)", capsys.readouterr().out).group(1))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("command", "table", "column"),
    [("test", "metrics.csv", 3), pytest.param("validate", "validation.csv", 1, marks=pytest.mark.slow)],
)
def test_the_checkpoint_serves_lightnings_own_commands(
    command: str, table: str, column: int, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([command, "--config", str(run / "config.yaml"), f"--ckpt_path={run / 'global.ckpt'}"])
    assert shown_accuracy(capsys) == pytest.approx(float(last_row(run / table)[column]), abs=1e-6)


def test_predict_writes_one_row_for_each_test_image(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "global.ckpt", tmp_path)
    again = ["predict", "--config", str(run / "config.yaml"), f"--ckpt_path={tmp_path / 'global.ckpt'}"]
    main(again)
    (tmp_path / "predictions.csv").rename(tmp_path / "first.csv")
    (tmp_path / "predictions.csv").write_text("mine")
    with pytest.raises(SystemExit):
        main(again)
    assert (tmp_path / "predictions.csv").read_text() == "mine"
    with (tmp_path / "first.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["image"]) for row in rows] == list(range(599))
    assert all(sum(float(row[str(digit)]) for digit in range(10)) == pytest.approx(1, abs=1e-4) for row in rows)
    truth = SklearnDigits().load().test.labels.tolist()
    assert [int(row["label"]) for row in rows] == truth
    hits = [int(row["guess"]) == label for row, label in zip(rows, truth, strict=True)]
    assert sum(hits) / len(hits) == pytest.approx(float(last_row(run / "metrics.csv")[3]), abs=1e-6)


def test_test_reports_the_accuracy_of_the_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["test", "--config", str(DIGITS), *TINY, f"--ckpt_path={run / 'global.ckpt'}"])
    assert shown_accuracy(capsys) == pytest.approx(float(last_row(run / "metrics.csv")[3]), abs=1e-6)


@pytest.mark.parametrize("command", ["test", pytest.param("predict", marks=pytest.mark.slow)])
def test_images_of_other_classes_than_the_checkpoints_are_refused(
    command: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names in reverse: as many classes, all of which would be taken for others."""
    checkpoint = torch.load(run / "global.ckpt", weights_only=True)
    checkpoint["mosaic"]["class_names"].reverse()
    torch.save(checkpoint, tmp_path / "global.ckpt")
    line = refusal(capsys, command, "--config", str(DIGITS), *TINY, f"--ckpt_path={tmp_path / 'global.ckpt'}")
    assert "trained for, (9, 8, 7, 6, 5, ...), got 10, (0, 1, 2, 3, 4, ...)" in line
    assert not (tmp_path / "predictions.csv").exists()


def test_a_split_that_is_not_the_runs_is_told(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in ("config.yaml", "global.ckpt"):
        shutil.copy(run / file, tmp_path)
    given = ("--config", str(tmp_path / "config.yaml"), f"--ckpt_path={tmp_path / 'global.ckpt'}")
    main(["test", *given, "--data.seed=7", "--trainer.callbacks=Timer"])  # of which no YAML can be written
    assert "the model may have been trained on some" not in capsys.readouterr().err
    main(["validate", *given, "--data.seed=7"])
    assert "data.seed: not as in" in capsys.readouterr().err
    part = {"class_path": "mosaic.data.PartSource", "init_args": {"source": "mosaic.data.SklearnDigits", "train": 900}}
    main(["test", *given, f"--data.source={part}"])
    assert "data.source.class_path, data.source.init_args: not as in" in capsys.readouterr().err


def test_print_config_round_trips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def printed(config: Path) -> str:
        with pytest.raises(SystemExit):
            main(["fit", "--config", str(config), "--print_config"])
        return capsys.readouterr().out

    first = printed(DIGITS)
    (tmp_path / "printed.yaml").write_text(first)
    assert printed(tmp_path / "printed.yaml") == first


def test_later_configs_and_flags_win(tmp_path: Path) -> None:
    overlay = tmp_path / "fedavg.yaml"
    overlay.write_text("algorithm: mosaic.algorithms.FedAvg\n")
    rounds = "--federation.schedule.collaborative_rounds=1"
    main(
        [
            *["fit", "--config", str(DIGITS), "--config", str(overlay), f"--federation.run_dir={tmp_path / 'run'}"],
            *[rounds, "--federation.schedule.fine_tune_rounds=0", "--federation.schedule.local_steps=1"],
        ]
    )
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["algorithm"]["class_path"] == "mosaic.algorithms.FedAvg"
    assert config["federation"]["schedule"]["collaborative_rounds"] == 1


def test_a_dry_run_walks_every_phase_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adversarial = "--algorithm.generation=Adversarial"
    trained = dry_run("fit", "--config", DIGITS, adversarial, f"--federation.run_dir={tmp_path / 'run'}")
    assert trained == {"ClassificationTask", "GenerationTask", "GatingTask", "DistillationTask"}
    assert "dry run: one batch of every phase has run" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_stored_configuration_undoes_no_option_before_it(
    shared_run: SharedRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shared_run("FedAvg")
    main(["test", f"--ckpt_path={run / 'global.ckpt'}", "--config", str(run / "config.yaml")])
    assert shown_accuracy(capsys) == pytest.approx(float(last_row(run / "metrics.csv")[3]), abs=1e-6)


def test_a_dry_run_says_nothing_to_loggers(tmp_path: Path) -> None:
    logger = f"{{class_path: lightning.pytorch.loggers.CSVLogger, init_args: {{save_dir: {tmp_path / 'csv'}}}}}"
    main(fit_arguments(tmp_path / "run", "FedAvg", f"--federation.loggers=[{logger}]", "--trainer.fast_dev_run=true"))
    assert not any(tmp_path.iterdir())


def test_a_configuration_may_come_through_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    text = DIGITS.read_text()
    writer = Thread(target=(tmp_path / "pipe").write_text, args=(text,))
    writer.start()
    check(["fit", "--config", str(tmp_path / "pipe")])
    writer.join()


@pytest.mark.parametrize("command", [["configs"], ["schema"], ["completion", "bash"]], ids=str)
def test_a_reader_that_stops_early_gets_no_traceback(command: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    told = subprocess.run([sys.executable, "-m", "mosaic", *command], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (told.returncode, told.stderr) == (141, "")


def test_version_answers_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out.startswith("mosaic ")


class TestRefusals:
    """Each bad request gets one line: what was expected, what was got, what to do."""

    def test_an_unknown_key(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "learning_rat" in refusal(capsys, "fit", "--config", str(DIGITS), "--federation.learning_rat=1")

    def test_a_misspelt_key_in_a_file(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "bad.yaml").write_text(DIGITS.read_text().replace("schedule:", "schedul:"))
        assert "schedul" in refusal(capsys, "fit", "--config", str(tmp_path / "bad.yaml"))

    def test_a_setting_of_gans_without_their_class(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        old = {"class_path": "mosaic.algorithms.Mosaic", "init_args": {"generation": {"steps": 3}}}
        (tmp_path / "old.yaml").write_text(yaml.safe_dump({"algorithm": old}))
        for given in (["--config", str(tmp_path / "old.yaml")], ["--algorithm.generation.steps=3"]):
            line = refusal(capsys, "fit", "--config", str(REPOSITORY / "configs" / "mnist.yaml"), *given)
            assert "algorithm.generation: steps is a setting of GANs, and generators here are ClassGaussians" in line

    def test_a_class_path_that_does_not_import(self, capsys: pytest.CaptureFixture[str]) -> None:
        line = refusal(capsys, "fit", "--config", str(DIGITS), "--model.net=mosaic.nets.Nothing")
        assert "mosaic.nets.Nothing" in line

    def test_more_clients_than_images(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        line = refusal(capsys, *tiny_fit(tmp_path / "run", "--data.partition.num_clients=5000"))
        assert "50000 training images, got 1198" in line
        assert not (tmp_path / "run").exists()

    def test_alpha_of_zero(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        line = refusal(capsys, *tiny_fit(tmp_path / "run", "--data.partition.alpha=0"))
        assert "alpha: expected a number above 0, got 0" in line

    def test_a_run_directory_that_exists(self, capsys: pytest.CaptureFixture[str], run: Path) -> None:
        before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
        line = refusal(capsys, *again(run))
        assert "--federation.run_dir" in line
        assert "--ckpt_path auto" in line
        assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before

    def test_a_changed_configuration(self, capsys: pytest.CaptureFixture[str], run: Path) -> None:
        line = refusal(capsys, *again(run, "--ckpt_path=auto", "--data.batch_size=16", "--seed_everything=3"))
        assert "data.batch_size" in line
        assert "seed_everything" in line

    def test_a_changed_past(self, capsys: pytest.CaptureFixture[str], run: Path) -> None:
        line = refusal(capsys, *again(run, "--ckpt_path=auto", "--federation.schedule.local_steps=5"))
        assert "federation.schedule" in line

    def test_last_without_a_run(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        line = refusal(capsys, *tiny_fit(tmp_path / "run", "--ckpt_path=last"))
        assert "holds no snapshot" in line

    def test_a_snapshot_that_is_cut_short(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        snapshot = tmp_path / "run" / "rounds" / "0001"
        (snapshot / "clients").mkdir(parents=True)
        (snapshot / "run.json").write_text('{"round": 1}')
        (snapshot / "server.safetensors").write_bytes(b"cut")
        assert "not a whole snapshot" in refusal(capsys, *tiny_fit(tmp_path / "run", "--ckpt_path=last"))

    @pytest.mark.parametrize(
        "command", ["test", *(pytest.param(name, marks=pytest.mark.slow) for name in ("validate", "predict"))]
    )
    def test_a_corrupt_checkpoint(self, command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        (tmp_path / "global.ckpt").write_bytes(b"not a checkpoint")
        line = refusal(capsys, command, "--config", str(DIGITS), f"--ckpt_path={tmp_path / 'global.ckpt'}")
        assert "not a readable checkpoint" in line

    def test_a_foreign_checkpoint(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        torch.save({"state_dict": {}, "hyper_parameters": {"x": 1}}, tmp_path / "other.ckpt")
        line = refusal(capsys, "test", "--config", str(DIGITS), f"--ckpt_path={tmp_path / 'other.ckpt'}")
        assert "not written by mosaic" in line

    def test_a_checkpoint_of_another_net(self, capsys: pytest.CaptureFixture[str], run: Path) -> None:
        checkpoint = f"--ckpt_path={run / 'global.ckpt'}"
        line = refusal(capsys, "test", "--config", str(DIGITS), checkpoint, "--model.net.init_args.width=8")
        assert "does not fit" in line

    @pytest.mark.parametrize(
        "command", ["test", *(pytest.param(name, marks=pytest.mark.slow) for name in ("validate", "predict"))]
    )
    def test_evaluating_without_a_checkpoint(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert "expected --ckpt_path" in refusal(capsys, command, "--config", str(DIGITS))

    def test_a_run_directory_that_is_a_file(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        assert "cannot be made a folder" in refusal(capsys, *tiny_fit(tmp_path / "file"))
        assert "cannot be made a folder" in refusal(capsys, *tiny_fit(tmp_path / "file" / "below"))
        assert (tmp_path / "file").read_text() == "mine"

    @pytest.mark.parametrize(
        ("flag", "says"),
        [
            pytest.param(
                "--federation.validate_every=0",
                "federation.validate_every: expected a number above 0",
                marks=pytest.mark.slow,
            ),
            ("--federation.schedule.learning_rate=-1", "learning_rate: expected a number above 0"),
            pytest.param("--federation.schedule.expert_steps=0", "expert_steps", marks=pytest.mark.slow),
            ("--algorithm.generation.steps=0", "algorithm.generation.steps: expected a number above 0"),
            pytest.param(
                "--algorithm.prototypes.min_count=0", "algorithm.prototypes.min_count", marks=pytest.mark.slow
            ),
            pytest.param(
                "--algorithm.distillation.temperature=0", "algorithm.distillation.temperature", marks=pytest.mark.slow
            ),
            ("--algorithm.teacher.head.epochs=0", "fitting.epochs: expected a number above 0"),
            pytest.param("--algorithm.prior_epsilon=0", "algorithm.prior_epsilon", marks=pytest.mark.slow),
            ("--trainer.precision=64-true", "trainer.precision"),
            ("--trainer.callbacks=LearningRateMonitor", "trainer: a blank step of local training fails"),
            ("--model.optimizer=torch.optim.LBFGS", "model.optimizer: a blank step of local training fails: TypeError"),
            ("--seed_everything=-1", "seed_everything: expected a whole number"),
            ("--federation.run_dir=", "federation.run_dir: expected the name of a new folder, got nothing"),
            ("--federation.faults.quorum=2", "federation.faults.quorum: expected a share in [0, 1]"),
            ("--federation.schedule.learning_rate=1e308", "learning_rate: expected a number above 0 and below 1e+38"),
            ("--model.optimizer.weight_decay=1e308", "model.optimizer.init_args.weight_decay: expected a number below"),
            *(
                pytest.param(flag, says, marks=pytest.mark.slow)
                for flag, says in {
                    "--trainer.callbacks=Timer": "cannot represent an object",
                    "--trainer.callbacks=DeviceStatsMonitor": "trainer: a blank step",
                    "--trainer.callbacks=BatchSizeFinder": "trainer: a blank step",
                    "--trainer.callbacks=ModelCheckpoint": "trainer: Lightning refuses",
                    "--trainer.logger=WandbLogger": "trainer.logger belongs to the phases",
                    "--trainer.inference_mode=false": "trainer.inference_mode belongs to the phases",
                    "--trainer.profiler=simple": "trainer.profiler: simple prints",
                    "--trainer.devices=-1": "trainer: Lightning refuses",
                    "--model.optimizer=torch.optim.Muon": "model.optimizer: a blank step",
                    "--model.optimizer.weight_decay=-1": "Invalid weight_decay value",
                    "--seed_everything=true": "seed_everything: expected a whole number",
                    "--trainer.strategy=ddp_spawn": "trainer.strategy",
                }.items()
            ),
            pytest.param("--executor.threads=0", "executor.threads: expected at least 1", marks=pytest.mark.slow),
        ],
    )
    def test_a_value_out_of_range(
        self, flag: str, says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        assert says in refusal(capsys, *tiny_fit(tmp_path / "run", flag))
        assert not (tmp_path / "run").exists()

    @pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
    def test_a_device_that_does_not_exist(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        assert "trainer: " in refusal(capsys, *tiny_fit(tmp_path / "run", "--trainer.accelerator=gpu"))

    def test_prototypes_that_no_client_can_send(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        line = refusal(capsys, *tiny_fit(tmp_path / "run", "--algorithm.prototypes.min_count=5000"))
        assert "algorithm.prototypes.min_count" in line
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        "flag",
        [
            "--federation.schedule.participation=0.75",
            pytest.param("--federation.schedule.fine_tune_learning_rate=0.5", marks=pytest.mark.slow),
        ],
    )
    def test_a_changed_schedule(self, flag: str, capsys: pytest.CaptureFixture[str], run: Path) -> None:
        assert flag[2:].split("=")[0] in refusal(capsys, *again(run, "--ckpt_path=auto", flag))

    def test_a_missing_checkpoint(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        line = refusal(capsys, "test", "--config", str(DIGITS), f"--ckpt_path={tmp_path / 'global.ckpt'}")
        assert "is no file" in line

    def test_a_trainer_key_that_belongs_to_phases(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        line = refusal(capsys, *tiny_fit(tmp_path / "run", "--trainer.max_epochs=3"))
        assert "trainer.max_epochs belongs to the phases" in line

    def test_a_callback_that_phases_cannot_have(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        checkpoints = "--trainer.callbacks=lightning.pytorch.callbacks.ModelCheckpoint"
        line = refusal(capsys, *tiny_fit(tmp_path / "run", checkpoints))
        assert "trainer: Lightning refuses these settings: " in line
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("accelerator", ["tpu", pytest.param("abacus", marks=pytest.mark.slow)])
    def test_an_accelerator_that_is_not_there(
        self, accelerator: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        line = refusal(capsys, *tiny_fit(tmp_path / "run", f"--trainer.accelerator={accelerator}"))
        assert "trainer: Lightning refuses these settings: " in line
        assert not (tmp_path / "run").exists()

    def test_a_distilling_round_that_never_comes(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        line = refusal(capsys, *tiny_fit(tmp_path / "run", "--federation.schedule.distill_rounds=[9]"))
        assert "expected rounds in 1..1, got [9]" in line

    @pytest.mark.parametrize("name", ["Leaves", "Helps"])
    def test_an_exit_of_somebodys_own_code(self, name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        """Its code 0 would be taken for a run that has come to its end."""
        line = refusal(capsys, *tiny_fit(tmp_path / "run", f"--algorithm.objective={__name__}.{name}"))
        assert f"{name}.bind in {__file__} has left the program, with code 0" in line
        assert not (tmp_path / "run").exists()


class Leaves(LocalObjective):
    """An objective that ends the program, as scripts do that were not written for a library."""

    def bind(self, context: LocalContext) -> LocalLoss:
        exit(0)


class Helps(LocalObjective):
    """An objective that has a command line of its own."""

    def bind(self, context: LocalContext) -> LocalLoss:
        argparse.ArgumentParser().parse_args(["--help"])
        raise AssertionError("not reached")


def test_a_client_is_helped_under_its_own_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["client", "--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("usage: mosaic client ")
