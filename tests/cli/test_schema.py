"""What editors and shells are told of the configuration is true of every configuration that ships."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import get_loader

from mosaic.cli.completion import completion, completion_script
from mosaic.cli.configs import configs, find_configs
from mosaic.cli.main import main
from mosaic.errors import MosaicError
from tests.small_runs import REPOSITORY


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    command = [sys.executable, "-m", "mosaic", "schema"]  # in this process Lightning may have made classes of its own
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return found


@pytest.mark.slow
def test_the_schema_names_sections_classes_and_their_settings(told: dict[str, Any]) -> None:
    sections = {"seed_everything", "model", "data", "algorithm", "executor", "federation", "clients", "trainer"}
    assert sections <= told["properties"].keys()
    assert "max_epochs" in told["properties"]["trainer"]["properties"]
    assert told["properties"]["data"]["properties"]["batch_size"]["type"] == "integer"
    assert "batch size of local training" in told["properties"]["data"]["properties"]["batch_size"]["description"]
    named = json.dumps(told["$defs"]["Algorithm"])
    assert "mosaic.algorithms.FedProx" in named
    assert '"mu"' in named


@pytest.mark.slow
def test_every_configuration_that_ships_keeps_to_the_schema(told: dict[str, Any]) -> None:
    validator = pytest.importorskip("jsonschema").Draft202012Validator(told)
    files = sorted((REPOSITORY / "configs").rglob("*.yaml"))
    wrong = [f"{file}: {error.message}" for file in files for error in validator.iter_errors(_values(file))]
    assert files
    assert wrong == []
    assert list(validator.iter_errors({"data": {"batch_siz": 3}}))
    assert list(validator.iter_errors({"federation": {"schedule": {"local_steps": "many"}}}))
    fine = {"algorithm": {"class_path": "mosaic.algorithms.FedProx", "init_args": {"mu": 0.1}}}
    assert not list(validator.iter_errors(fine))
    fine["algorithm"]["init_args"] = {"nu": 0.1}
    assert list(validator.iter_errors(fine))
    assert not list(validator.iter_errors({"model": {"net": {"class_path": "mine.Net", "init_args": {"depth": 3}}}}))


def _values(file: Path) -> Any:
    return get_loader("yaml")(file.read_text())


def test_example_configurations_are_listed_and_copied_whole(tmp_path: Path) -> None:
    source, listed = find_configs(), configs()
    files = {file.relative_to(source) for file in (*source.glob("*.yaml"), *source.glob("*/*.yaml"))}
    assert all(f"{file} " in listed for file in files)
    assert "Handwritten digits" in listed
    assert "start with mosaic fit --config" in configs(tmp_path / "mine")
    copied = tmp_path / "mine"
    assert {file.relative_to(copied) for file in copied.rglob("*.yaml")} == files
    assert not any(path.is_symlink() for path in copied.rglob("*")), "a link would lead out of the copy"
    assert yaml.safe_load((copied / "algorithms" / "fedavg.yaml").read_text())
    for taken in (copied, tmp_path / "mine" / "digits.yaml" / "x"):
        with pytest.raises(MosaicError, match="--copy"):
            configs(taken)


def test_the_command_prints_all_three(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def script(shell: str) -> str:
        return f"for {shell}"

    monkeypatch.setattr("mosaic.cli.schema.schema", lambda: "of settings")
    monkeypatch.setattr("mosaic.cli.completion.completion", script)
    main(["configs"])
    main(["schema"])
    main(["completion", "zsh"])
    printed = capsys.readouterr().out
    assert "digits.yaml" in printed
    assert "of settings" in printed
    assert "for zsh" in printed


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_and_options() -> None:
    def complete(*words: str) -> list[str]:
        line = f'COMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}; _mosaic; echo "${{COMPREPLY[@]}}"'
        script = completion_script("bash", {"fit": ["--config", "--data.seed"], "report": ["--output"]})
        done = subprocess.run(["bash", "-c", f"{script}\n{line}"], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return done.stdout.split()

    assert complete("mosaic", "f") == ["fit"]
    assert complete("mosaic", "''") == ["fit", "report"]
    assert complete("mosaic", "fit", "--d") == ["--data.seed"]
    assert complete("mosaic", "report", "runs") == []


def test_every_command_has_its_options_completed() -> None:
    script = completion("zsh")
    assert script.startswith("#compdef mosaic")
    for part in (
        "--data.batch_size",
        "--trainer.accelerator",
        "--algorithm",
        "--seeds",
        "--copy",
        "--format",
        "--output",
        "--host",
    ):
        assert part in script
    deploy = next(line for line in script.splitlines() if line.lstrip().startswith("deploy)"))
    assert "--config --output --host" in deploy, "which are options there"
    assert "--require" not in deploy
