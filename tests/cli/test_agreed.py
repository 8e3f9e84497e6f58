"""A configuration that no server could run is refused before folders are written for everybody."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from mosaic.cli.agreed import require_agreed
from mosaic.cli.complaints import one_line
from mosaic.cli.main import main
from mosaic.deployment.trial import CONFIG
from mosaic.errors import MosaicError

ALL_KNOW = {"class_names": ["a", "b"], "image_shape": [1, 8, 8]}


def changed(folder: Path, section: str, value: Any) -> Path:
    """Write the trial's configuration with another section."""
    path = folder / "federation.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(CONFIG.read_text()), section: value}))
    return path


@pytest.mark.parametrize(
    ("section", "value", "told"),
    [
        ("algorithm", {"class_path": "mosaic.algorithms.Centralised"}, "Centralised brings all images to one place"),
        ("federation", {"schedule": {"fine_tune_rounds": -1}}, "federation.schedule.fine_tune_rounds: expected 0 or"),
        ("data", {**yaml.safe_load(CONFIG.read_text())["data"], "mean": [0.1, 0.2]}, "data.mean: expected 1 numbers"),
    ],
)
def test_what_the_server_would_refuse_is_refused(section: str, value: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(MosaicError, match=told):
        require_agreed(changed(tmp_path, section, value))


@pytest.mark.parametrize(
    ("partition", "told"),
    [
        (None, "expected a value for data.partition, got none"),
        ("mosaic.data.Remote", "data.partition: .* required: num_clients, class_names, image_shape"),
        (
            {"class_path": "mosaic.data.DirichletPartition", "init_args": {"num_clients": 3, "alpha": 1.0}},
            "data.partition: expected mosaic.data.Remote, .*got DirichletPartition: see docs/deployment.md",
        ),
        (
            {"class_path": "mosaic.data.Remote", "init_args": {**ALL_KNOW, "num_clients": 0}},
            "num_clients: expected a number above 0, got 0",
        ),
    ],
)
def test_a_configuration_of_a_simulation_is_refused(partition: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(MosaicError, match=told), one_line():
        require_agreed(changed(tmp_path, "data", {"partition": partition}))


def test_devices_and_images_of_other_hosts_are_not_looked_for(tmp_path: Path) -> None:
    data = yaml.safe_load(CONFIG.read_text())["data"]
    elsewhere = {"class_path": "mosaic.data.NpzSource", "init_args": {"path": "elsewhere.npz"}}
    asked = {key: value for key, value in data.items() if key not in ("mean", "std")}
    require_agreed(changed(tmp_path, "data", {**asked, "source": elsewhere}))
    require_agreed(changed(tmp_path, "trainer", {"accelerator": "gpu", "devices": 8, "precision": "bf16-mixed"}))


def test_no_folder_is_written_for_a_misspelt_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = changed(tmp_path, "federation", {"schedule": {"local_step": 20}})
    with pytest.raises(SystemExit):
        main(["deploy", "--config", str(config), "--output", str(tmp_path / "new")])
    assert "did you mean federation.schedule.local_steps?" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
