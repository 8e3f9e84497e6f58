"""Every YAML in configs/ is parsed; those whose data are at hand are run dry."""

import os
from pathlib import Path

import pytest
import yaml

from tests.cases import for_each
from tests.small_runs import REPOSITORY, dry_run, parsed

CONFIGS = REPOSITORY / "configs"
DIGITS = CONFIGS / "digits.yaml"
RUNS = sorted(CONFIGS.glob("*.yaml"))
ON_TOP = ("frozen", "replay", "teach_back")
"""Presets that name no algorithm, since they are stacked on one."""
ALGORITHMS = sorted(path for path in (CONFIGS / "algorithms").glob("*.yaml") if path.stem not in ON_TOP)
CLIENTS = sorted((CONFIGS / "clients").glob("*.yaml"))
OVERLAYS = sorted((CONFIGS / "data").glob("*_*.yaml"))
SECTIONS = {"algorithms": "algorithm", "clients": "clients", "data": "data", "partitions": "data"}
"""What an overlay in each folder may change."""
MOSAICS = {"ClassificationTask", "DistillationTask", "GatingTask"}
"""What Mosaic trains, whether its clients' models are alike or not."""


@pytest.mark.parametrize("config", RUNS, ids=lambda path: path.stem)
def test_a_configuration_is_valid(config: Path) -> None:
    assert parsed(config)["data"]["source"]["class_path"]


def test_a_class_keeps_its_own_defaults_in_the_place_of_a_default_class() -> None:
    """The default network has 16 channels, and the default optimiser decays no weights."""
    model = parsed("--model.net=mosaic.nets.ResNet18", "--model.optimizer=torch.optim.AdamW")["model"]
    assert model["net"]["init_args"] == {"width": 64}
    assert model["optimizer"]["init_args"]["weight_decay"] == 0.01
    assert parsed(CONFIGS / "cifar10.yaml")["model"]["net"]["init_args"] == {"width": 64}
    assert parsed("--model.net.init_args.width=24")["model"]["net"]["init_args"] == {"width": 24, "norm": "batch"}


def test_nobody_gets_more_than_one_device_unasked() -> None:
    """Lightning's own default is all GPUs, data-parallel: other numbers than on one."""
    configured = {path.stem: parsed(path)["trainer"]["devices"] for path in RUNS}
    assert configured == dict.fromkeys(configured, 1)


@for_each("folder", SECTIONS)
def test_an_overlay_says_something_about_its_own_section_alone(folder: str) -> None:
    overlays = sorted((CONFIGS / folder).glob("*.yaml"))
    assert overlays
    assert [path.stem for path in overlays if yaml.safe_load(path.read_text()).keys() != {SECTIONS[folder]}] == []


def differs(config: Path, overlay: Path) -> set[str]:
    """Sections that an overlay changes."""
    before, after = parsed(config), parsed(config, overlay)
    return {section for section in before.keys() | after.keys() if before.get(section) != after.get(section)}


@pytest.mark.parametrize("overlay", ALGORITHMS, ids=lambda path: path.stem)
def test_an_algorithm_is_the_one_that_its_preset_names(overlay: Path) -> None:
    named = yaml.safe_load(overlay.read_text())["algorithm"]["class_path"]
    assert parsed(DIGITS, overlay)["algorithm"]["class_path"] == named
    assert differs(DIGITS, overlay) <= {"algorithm"}


@for_each("algorithm", ["fedftg", "dfrd"])
def test_frozen_statistics_are_an_overlay_of_the_methods_that_can_have_them(algorithm: str) -> None:
    plain, frozen = (CONFIGS / "algorithms" / f"{name}.yaml" for name in (algorithm, "frozen"))
    before, after = parsed(DIGITS, plain)["algorithm"], parsed(DIGITS, plain, frozen)["algorithm"]
    assert not before["init_args"]["tuning"].pop("freeze_statistics")
    assert after["init_args"]["tuning"].pop("freeze_statistics")
    assert before == after


@for_each(("preset", "flag"), [("replay", "replay.share=0.5"), ("teach_back", "teach_back=true")])
def test_two_presets_are_one_argument_of_the_mosaic_below_them(preset: str, flag: str) -> None:
    stacked = parsed(DIGITS, CONFIGS / "algorithms" / f"{preset}.yaml")["algorithm"]
    assert stacked == parsed(DIGITS, f"--algorithm.{flag}")["algorithm"] != parsed(DIGITS)["algorithm"]


@pytest.mark.parametrize("overlay", CLIENTS, ids=lambda path: path.stem)
def test_a_pool_of_models_changes_the_clients_alone(overlay: Path) -> None:
    assert differs(DIGITS, overlay) == {"clients"}


@pytest.mark.slow
@pytest.mark.parametrize("overlay", ALGORITHMS + CLIENTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("config", RUNS, ids=lambda path: path.stem)
def test_every_overlay_fits_every_configuration(config: Path, overlay: Path) -> None:
    assert differs(config, overlay) <= {SECTIONS[overlay.parent.name]}


@pytest.mark.parametrize("before", [(), ("mosaic_paper", "reduced")], ids=["alone", "on the paper's"])
def test_the_default_preset_is_what_mosaic_does_anyway(before: tuple[str, ...], tmp_path: Path) -> None:
    stack, bare = [CONFIGS / "algorithms" / f"{name}.yaml" for name in (*before, "mosaic")], tmp_path / "bare.yaml"
    bare.write_text(yaml.safe_dump({**yaml.safe_load(DIGITS.read_text()), "algorithm": "mosaic.algorithms.Mosaic"}))
    assert parsed(DIGITS, *stack)["algorithm"] == parsed(bare)["algorithm"]


def test_the_papers_preset_undoes_what_other_configurations_say() -> None:
    paper = CONFIGS / "algorithms" / "mosaic_paper.yaml"
    assert parsed(CONFIGS / "cifar100.yaml", paper)["algorithm"] == parsed(DIGITS, paper)["algorithm"]


def test_gpu_configurations_are_mosaics_defaults_and_the_released_rates_an_overlay_away() -> None:
    cifar, rates = CONFIGS / "cifar10.yaml", CONFIGS / "schedules" / "released_rates.yaml"
    mosaic = CONFIGS / "algorithms" / "mosaic.yaml"
    assert parsed(cifar)["algorithm"] == parsed(cifar, mosaic)["algorithm"]
    schedule = parsed(cifar, rates)["federation"]["schedule"]
    assert (schedule["learning_rate"], schedule["fine_tune_learning_rate"]) == (0.01, 1e-4)


def walk(tmp_path: Path, *configs: Path) -> set[str]:
    """One batch of every phase, on the CPU."""
    flags = [argument for config in configs for argument in ("--config", config)]
    trained = dry_run("fit", *flags, "--trainer.accelerator=cpu", f"--federation.run_dir={tmp_path / 'run'}")
    assert not (tmp_path / "run").exists()
    return trained


@pytest.mark.parametrize(("algorithm", "trained"), [("mosaic", MOSAICS), ("fedavg", {"ClassificationTask"})])
def test_clients_with_different_widths_walk_every_phase(algorithm: str, trained: set[str], tmp_path: Path) -> None:
    overlay = CONFIGS / "algorithms" / f"{algorithm}.yaml"
    assert walk(tmp_path, CONFIGS / "heterogeneous_digits.yaml", overlay) == trained


@pytest.mark.parametrize(
    "overlay",
    [path if path.stem == "three_architectures" else pytest.param(path, marks=pytest.mark.slow) for path in CLIENTS],
    ids=lambda path: path.stem,
)
@pytest.mark.parametrize("config", ["digits", pytest.param("heterogeneous_digits", marks=pytest.mark.slow)])
def test_every_overlay_of_clients_walks_every_phase(config: str, overlay: Path, tmp_path: Path) -> None:
    assert walk(tmp_path, CONFIGS / f"{config}.yaml", overlay) == MOSAICS


WITH_FILES = pytest.mark.skipif(
    "MOSAIC_DATA" not in os.environ, reason="MOSAIC_DATA does not name the folder with the files"
)


@pytest.mark.slow
@WITH_FILES
def test_the_heterogeneous_cifar_configuration_walks_every_phase(tmp_path: Path) -> None:
    trained = walk(tmp_path, CONFIGS / "heterogeneous_cifar10.yaml", CONFIGS / "data" / "cifar10_part.yaml")
    assert trained == MOSAICS


@WITH_FILES
@pytest.mark.parametrize(
    "overlay",
    [path if path.stem == "mnist_part" else pytest.param(path, marks=pytest.mark.slow) for path in OVERLAYS],
    ids=lambda path: path.stem,
)
def test_a_run_on_real_files_walks_every_phase(overlay: Path, tmp_path: Path) -> None:
    trained = walk(tmp_path, CONFIGS / f"{overlay.stem.rpartition('_')[0]}.yaml", overlay)
    assert trained == MOSAICS
