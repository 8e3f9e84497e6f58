"""What files and flags say, before anything is made of it."""

from pathlib import Path

import pytest

from mosaic.cli.given import read_arguments
from mosaic.errors import MosaicError


def test_files_and_flags_are_stacked(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("algorithm: {init_args: {teacher: {heads_only: true}, generation: {steps: 3}}}")
    (tmp_path / "b.yaml").write_text("executor: mosaic.executors.SerialExecutor")
    given = [f"--config={tmp_path / 'a.yaml'}", "-c", str(tmp_path / "b.yaml"), "--executor.threads", "1"]
    more = ["--algorithm.teacher.dim=8", "--algorithm.generation=Adversarial", "--data.seed", "-1"]
    assert read_arguments([*given, *more]) == {
        "algorithm": {
            "init_args": {"teacher": {"heads_only": True}, "generation": {"steps": 3}},
            "teacher": {"dim": 8},
            "generation": "Adversarial",
        },
        "executor": {"class_path": "mosaic.executors.SerialExecutor", "threads": 1},
        "data": {"seed": -1},
    }


def test_what_cannot_be_read_is_left_to_the_parser(tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(bytes(range(128, 256)))
    long, broken, bad = "a" * 5000, "[1, 2", str(tmp_path / "bytes.yaml")
    given = read_arguments(["--overlay", long, f"--data.a={broken}", f"--data.b={bad}", "--config", "nowhere.yaml"])
    assert given == {"data": {"a": broken, "b": bad}}
    (tmp_path / "digits.yaml").write_text(f"seed_everything: {'9' * 5000}")
    assert read_arguments(["--config", str(tmp_path / "digits.yaml")]) == {}
    with pytest.raises(MosaicError, match="expected a configuration in UTF-8"):
        read_arguments(["--config", bad])
