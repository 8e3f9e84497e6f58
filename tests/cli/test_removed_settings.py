"""What older versions called otherwise: refused in one line, which holds what replaces it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cases import for_each
from tests.cli.test_main import refusal
from tests.small_runs import DIGITS

HARD_SAMPLES = (
    "algorithm.distillation.hard_sample_step is gone: "
    "set algorithm.distillation.noise to 0.1 on grey images, which is faster; leave it out on photographs"
)
FITTING = "algorithm.fitting is gone: leave it out: PrototypeHead's head is computed in closed form"
STACKED = "model.stack_experts is gone: leave it out: stacked experts were slower on every device that was measured"
ROUNDS = "algorithm.distilling_rounds is gone: leave it out: federation.schedule says which rounds distil"


def of_mosaic(**arguments: object) -> dict[str, Any]:
    return {"algorithm": {"class_path": "mosaic.algorithms.Mosaic", "init_args": arguments}}


OLD = of_mosaic(distillation={"hard_sample_step": 0.03})


@for_each(
    ("given", "line"),
    [
        (["--algorithm.distillation.hard_sample_step=0.03"], HARD_SAMPLES),
        (["--algorithm.init_args.distillation.hard_sample_step", "0.03"], HARD_SAMPLES),
        ([f"--algorithm={json.dumps(OLD['algorithm'])}"], HARD_SAMPLES),
        (["--config", "old.yaml"], HARD_SAMPLES),
        (["--algorithm", "section.yaml"], HARD_SAMPLES),
        (["--algorithm=PrototypeHead", "--algorithm.fitting.epochs=2"], FITTING),
        (["--algorithm=DENSE", "--algorithm.distilling_rounds=2"], ROUNDS),
        (["--model.stack_experts=true"], STACKED),
        (["--config", "stacked.yaml"], STACKED),
    ],
)
def test_what_is_gone_is_named(
    given: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, values in (("old", OLD), ("section", OLD["algorithm"]), ("stacked", {"model": {"stack_experts": True}})):
        Path(f"{name}.yaml").write_text(yaml.safe_dump(values))
    assert refusal(capsys, "fit", "--config", str(DIGITS), *given).endswith(line)


@for_each(
    ("generation", "kind"),
    [
        ({"steps": 3}, "ClassGaussians"),
        ({"class_path": "ClassGaussians", "init_args": {"steps": 3}}, "ClassGaussians"),
        (
            {"class_path": "Mixture", "init_args": {"parts": ["mosaic.generation.ClassGaussians"], "steps": 3}},
            "Mixture",
        ),
    ],
    ids=["default", "short", "mixture"],
)
def test_settings_of_gans_need_their_class(
    generation: dict[str, Any], kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(of_mosaic(generation=generation)))
    line = refusal(capsys, "fit", "--config", str(DIGITS), "--config", str(tmp_path / "old.yaml"))
    assert f"algorithm.generation: steps is a setting of GANs, and generators here are {kind}: write" in line


def test_settings_stand_all_beside_class_path_or_all_under_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = {"class_path": "mosaic.generation.ClassGaussians", "components": 3}
    (tmp_path / "mixed.yaml").write_text(yaml.safe_dump(of_mosaic(generation=mixed)))
    line = refusal(capsys, "fit", "--config", str(DIGITS), "--config", str(tmp_path / "mixed.yaml"))
    assert "expected the settings of a class under init_args, beside class_path, got components beside it" in line


@pytest.mark.parametrize("option", ["--overlay", "--algorithms"])
def test_compare_refuses_them_before_anything_is_run(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(OLD))
    first = str(DIGITS) if option == "--overlay" else "fedavg"
    given = ["compare", str(DIGITS), option, f"{first},{tmp_path / 'old.yaml'}", f"--output={tmp_path / 'out'}"]
    assert refusal(capsys, *given).endswith(HARD_SAMPLES)
    assert not (tmp_path / "out").exists()
