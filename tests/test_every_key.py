"""Every key of the configuration has an effect, or is refused by name: nothing is accepted and ignored."""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from mosaic.cli.main import main
from tests.small_runs import DIGITS, UNSEEN, final_model, parsed, rows_without_time, tiny_fit

BASE = [
    *("--federation.schedule.fine_tune_rounds=1", "--data.partition.num_clients=3", "--data.augmentation.padding=1"),
    *("--model.optimizer.init_args.momentum=0.5", "--algorithm.generation.inversion_weight=0.5"),
    *("--algorithm.teacher=Residual", "--algorithm.generation.batch_size=16", *UNSEEN),
]
"""Switches on what would hide other keys; nobody can refuse the student, so that the final model shows everything."""
ONLY_EACH_PHASES = (
    *("max_epochs", "min_epochs", "min_steps", "max_time", "limit_train_batches", "limit_val_batches"),
    *("limit_test_batches", "limit_predict_batches", "val_check_interval", "num_sanity_val_steps"),
    *("log_every_n_steps", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"),
)
OTHERS: dict[str, Any] = {
    **{f"trainer.{key}": 3 for key in ONLY_EACH_PHASES},
    **{f"trainer.enable_{key}": True for key in ("checkpointing", "progress_bar", "model_summary")},
    **{f"trainer.{key}": "somewhere" for key in ("default_root_dir", "model_registry")},
    **{"trainer.accelerator": "gpu", "trainer.strategy": "ddp_spawn", "trainer.precision": "bf16-mixed"},
    **{"trainer.gradient_clip_val": 0.01, "trainer.profiler": "simple", "trainer.num_nodes": 0, "trainer.devices": 0},
    "trainer.callbacks": "LearningRateMonitor",
    "trainer.gradient_clip_algorithm": "value",
    "trainer.plugins": "lightning.pytorch.plugins.precision.HalfPrecision",
    "model.optimizer.init_args.lr": 0.5,
    "model.net.init_args.norm": "group",
    "privacy": {"epsilon": 10},
    "data.partition.init_args.min_images": 350,
    "clients.sigma": 0,
    "algorithm.init_args.distillation.min_confidence": 0.525,
    "algorithm.init_args.distillation.shift": 0.4,
    "algorithm.init_args.distillation.interpolation": [0.5],
    "algorithm.init_args.teacher.init_args.fitting.batch_size": 8,
    "data.mean": [0.3],
    "data.std": [0.2],
    "algorithm.init_args.generation.init_args.betas": [0.4, 0.9],
    "algorithm.init_args.generation.init_args.loss": "bce",
    "algorithm.init_args.generation.init_args.discriminator_normalization": "batch",
    "algorithm.init_args.generation.init_args.initialization": "dcgan",
    "algorithm.init_args.generation.init_args.diversity_target": "uniform",
    "algorithm.init_args.generation.init_args.inversion_below": 1,
    "algorithm.init_args.generation.init_args.min_count": 60,
    "algorithm.init_args.prototypes.min_count": 60,
    "algorithm.init_args.prototypes.clusters_per_class": 1,
    "algorithm.init_args.experts": "class_average",
    "algorithm.init_args.expert_statistics": "recalibrated",
    "algorithm.init_args.teacher": "Mean",
    "algorithm.init_args.teacher.init_args.dim": 16,
    "algorithm.init_args.distillation.view": "mosaic.nets.augmentation.Augmentation",
    "algorithm.init_args.share_curves": False,
    "federation.schedule.distill_rounds": [2],
    "federation.schedule.expert_steps": 3,
    "federation.keep_snapshots": 1,
    "clients.levels": [1.0, 0.5],
    "clients.models": ["global", "mosaic.nets.MLP"],
    "clients.rho": 2,
    "clients.classifier_rows": "all",
    "ckpt_path": "last",
}
"""Another value, where none can be guessed from the one that is there."""
NEEDS: dict[str, list[str]] = {
    **{f"algorithm.init_args.prototypes.{key}": ["--algorithm.teacher=Fusion"] for key in ("clusters_per_class",)},
    "algorithm.init_args.prototypes.min_count": ["--algorithm.teacher=Fusion"],
    "algorithm.init_args.teacher.init_args.dim": ["--algorithm.teacher=Transformer"],
    "algorithm.init_args.replay.images": ["--algorithm.replay.share=0.25"],
    "clients.sigma": ["--clients.rho=2"],
    "clients.classifier_rows": ["--clients.levels=[1.0,0.5]"],
    "trainer.gradient_clip_algorithm": ["--trainer.gradient_clip_val=0.01"],
}
"""What else must be set for a key to mean something."""
NOT_SEEN_HERE = {
    "model.compile": "the same figures in more time",
    "model.cuda_graphs": "concerns GPUs",
    "trainer.detect_anomaly": "looks for the operation behind a NaN",
    "trainer.sync_batchnorm": "concerns several devices",
    "trainer.deterministic": "concerns GPUs",
    "trainer.benchmark": "concerns GPUs",
    "trainer.fast_dev_run": "keeps nothing; tests of the dry run watch it",
    "data.device_cache": "concerns GPUs",
    "federation.run_dir": "where all this goes",
    "federation.loggers": "tells others what the run writes anyway; tests of loggers watch them",
    **{f"federation.faults.{key}": "concerns clients that fail" for key in ("deadline", "quorum", "retries")},
    "model.optimizer.init_args.foreach": "the same figures in another time",
    "model.optimizer.init_args.fused": "the same figures in another time",
    "executor.init_args.faults": "concerns clients that fail on purpose",
    "executor.init_args.threads": "the same figures up to rounding",
    "weights_only": "Lightning's own, for test, validate and predict",
}
"""Keys whose effect a run of seconds on one CPU does not show, with the reason."""


def leaves(values: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(values, Mapping) and values:
        for key, value in values.items():
            yield from leaves(value, f"{place}.{key}".strip("."))
    else:
        yield place, values


@cache
def all_leaves() -> dict[str, Any]:
    """Every key of the base run with its value; classes are changed by what stands beside them."""
    told = parsed(DIGITS, *tiny_fit(Path("x"))[3:-1], *BASE)
    return {key: value for key, value in leaves(told) if not key.endswith("class_path")}


def another(key: str, value: Any) -> str:
    match OTHERS.get(key, value):
        case found if key in OTHERS:
            return found if isinstance(found, str) else json.dumps(found)
        case bool():
            return json.dumps(not value)
        case int():
            return str(value + 1)
        case float():
            return str(value / 2 if value else 0.5)
        case _:
            raise LookupError(f"say in OTHERS what {key} could be instead of {value!r}, or why it shows no effect")


def outcome(folder: Path, *flags: str) -> Any:
    """What a run leaves, without times."""
    main(tiny_fit(folder, *BASE, *flags))
    summary = json.loads((folder / "summary.json").read_text())
    told = {key: value for key, value in summary.items() if key not in ("seconds", "peak_memory_bytes")}
    model = {name: tensor.double().abs().sum().item() for name, tensor in final_model(folder).items()}
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if "events" not in file.name}
    return model, rows_without_time(folder), told, files


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return outcome(tmp_path_factory.mktemp("base") / "run")


SECTIONS = {
    **{name: (f"{name}.",) for name in ("trainer", "model", "data", "federation", "clients")},
    **{name: (f"algorithm.init_args.{name}.",) for name in ("generation", "prototypes", "teacher", "distillation")},
}


def section_of(key: str) -> str:
    return next((name for name, starts in SECTIONS.items() if key.startswith(starts)), "rest")


def complaint(key: str, base: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> str | None:
    """Set one key, and say what is wrong with what comes of it."""
    needed = NEEDS.get(key, [])
    compared = outcome(folder / "without", *needed) if needed else base
    try:
        found = outcome(folder / "run", *needed, f"--{key}={another(key, all_leaves()[key])}")
    except SystemExit as refusal:
        said, named = capsys.readouterr().err.strip().splitlines()[-1], key.replace(".init_args", "").split(".")
        if refusal.code != 2 or not said.startswith("mosaic: error: ") or (folder / "run").exists():
            return f"{key} is refused in a way of its own: {said}"
        known = any(name in said for name in (named if len(named) < 3 else (named[-1], ".".join(named[:2]))))
        return None if known else f"{key} is refused without its name: {said}"
    return f"{key} has no effect" if found == compared else None


@pytest.mark.slow
@pytest.mark.parametrize("section", [*SECTIONS, "rest"])
def test_every_key_has_an_effect_or_is_refused(
    section: str, base: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = [key for key in all_leaves() if section_of(key) == section and key not in NOT_SEEN_HERE]
    assert keys or section == "rest"
    found = [complaint(key, base, tmp_path / str(place), capsys) for place, key in enumerate(keys)]
    assert [said for said in found if said] == []


@pytest.mark.slow
def test_the_base_run_is_the_same_twice(base: Any, tmp_path: Path) -> None:
    assert outcome(tmp_path / "run") == base
